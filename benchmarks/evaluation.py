"""How long the evaluation's own computations take: intervals, copied characters, near-duplicates.

    python -m benchmarks.evaluation

    python -m benchmarks.evaluation --coverage    # how often intervals contain the truth, see coverage.py

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import polars as pl

from benchmarks.coverage import coverage, table
from persona.audit.checks import near_duplicates
from persona.evaluation.metrics.intervals import estimate
from persona.evaluation.metrics.texts import Corpus

CHARACTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="test targets")
    parser.add_argument("--training-texts", type=int, default=100_000)
    parser.add_argument("--coverage", action="store_true", help="simulate how often intervals contain the truth")
    parser.add_argument("--rounds", type=int, default=1000, help="simulated data sets of each cell")
    args = parser.parse_args()
    if args.coverage:
        cells = coverage(args.rounds)
        print(table(cells), json.dumps({"cells": cells}), sep="\n")
        return
    rng = np.random.default_rng(0)
    users = np.unique(rng.integers(0, args.rows // 3, args.rows), return_inverse=True)[1]
    films = rng.integers(0, 28, args.rows)
    features = np.column_stack([rng.normal(size=args.rows), rng.integers(5, 100, args.rows)]).astype(float)
    texts = ["".join(rng.choice(CHARACTERS, rng.integers(5, 66))) for _ in range(args.training_texts)]
    written = ["".join(rng.choice(CHARACTERS, rng.integers(5, 66))) for _ in range(400)]
    figures = {
        "rows": args.rows,
        "training_texts": args.training_texts,
        "interval_s": seconds(lambda: estimate(features, users, films)),
        "copied_characters_s": seconds(lambda: Corpus(texts).longest(written)),
        "near_duplicates_s": seconds(lambda: duplicates(texts, written)),
    }
    for name, value in figures.items():
        print(f"{name:<30}{value:>12,.4f}")
    print(json.dumps(figures))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def duplicates(training: list[str], test: list[str]) -> pl.DataFrame:
    texts = pl.DataFrame({"text": training + test}).with_row_index("interaction_id")
    texts = texts.with_columns(pl.col("interaction_id").cast(pl.Int64))
    keys = texts.select("interaction_id", user_id=pl.lit("u"), item_id=pl.lit("i"))
    return near_duplicates(keys.head(len(training)), {"test": keys.tail(len(test))}, texts)


if __name__ == "__main__":
    main()
