"""How long the evaluation's own computations take: intervals, copied characters, near-duplicates.

    python -m benchmarks.evaluation

The bootstrap is compared with the usual loop, which draws users and gathers their rows anew for each resample; the
loop is run for a hundredth of the resamples and its time multiplied. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import polars as pl

from persona.audit.checks import near_duplicates
from persona.evaluation.metrics.bootstrap import RESAMPLES, Floats, Ints, estimate
from persona.evaluation.metrics.texts import Corpus

CHARACTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="test targets")
    parser.add_argument("--training-texts", type=int, default=100_000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    users = np.unique(rng.integers(0, args.rows // 3, args.rows), return_inverse=True)[1]
    films = rng.integers(0, 28, args.rows)
    features = np.column_stack([rng.normal(size=args.rows), rng.integers(5, 100, args.rows)]).astype(float)
    texts = ["".join(rng.choice(CHARACTERS, rng.integers(5, 66))) for _ in range(args.training_texts)]
    written = ["".join(rng.choice(CHARACTERS, rng.integers(5, 66))) for _ in range(400)]
    figures = {
        "rows": args.rows,
        "training_texts": args.training_texts,
        "bootstrap_users_s": seconds(lambda: estimate(features, users)),
        "bootstrap_users_and_items_s": seconds(lambda: estimate(features, users, items=films)),
        "bootstrap_loop_s": 100 * seconds(lambda: loop(features, users, RESAMPLES // 100)),
        "copied_characters_s": seconds(lambda: Corpus(texts).longest(written)),
        "near_duplicates_s": seconds(lambda: duplicates(texts, written)),
    }
    figures["loop_over_bootstrap"] = figures["bootstrap_loop_s"] / figures["bootstrap_users_s"]
    for name, value in figures.items():
        print(f"{name:<30}{value:>12,.2f}")
    print(json.dumps(figures))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loop(features: Floats, users: Ints, resamples: int) -> list[float]:
    """One resample after the other, in the way that is usually written."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(users == user) for user in range(users.max() + 1)]
    found = []
    for _ in range(resamples):
        chosen = np.concatenate([rows[user] for user in rng.integers(0, len(rows), len(rows))])
        found.append(features[chosen, 0].sum() / features[chosen, 1].sum())
    return found


def duplicates(training: list[str], test: list[str]) -> pl.DataFrame:
    texts = pl.DataFrame({"text": training + test}).with_row_index("interaction_id")
    texts = texts.with_columns(pl.col("interaction_id").cast(pl.Int64))
    keys = texts.select("interaction_id", user_id=pl.lit("u"), item_id=pl.lit("i"))
    return near_duplicates(keys.head(len(training)), {"test": keys.tail(len(test))}, texts)


if __name__ == "__main__":
    main()
