"""What moves a text, computed as one prefix tree and one prompt at a time: seconds and tokens, turn by turn.

    python -m benchmarks.explain results/chameleons --stage full    # a results folder with a trained stage

Of the test targets those with the most earlier texts are explained: each profile field and each history entry is
left out in turn. The last line is one JSON object: seconds of both ways (the least of three rounds), their ratio, the
prompts of a target, and the largest difference between the two ways in nats.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import polars as pl

from persona.inference.explain import explain, shorter_prompts
from persona.inference.question import ask
from persona.inference.writer import Completion, Writer, one_process
from persona.study import Study
from persona.tables import schemas
from persona.tables.parquet import read_table

ROUNDS = 3
NOTHING: frozenset[str] = frozenset()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--stage")
    parser.add_argument("--targets", type=int, default=4)
    args = parser.parse_args()
    study = Study.load(args.results)
    targets = read_table(study.table("targets"), schemas.TARGETS).filter(pl.col("cohort") == "test")
    ids = targets.sort("n_history", "interaction_id", descending=True)["interaction_id"].head(args.targets)
    with one_process():
        writer = Writer(study, study.stage(args.stage))
        asked = [(question, writer.prompt(question)) for question in (ask(study, target=n) for n in ids)]
        prompts = [
            [prompt.ids, *(writer.framed(text) for _, _, text in shorter_prompts(writer, question, prompt, NOTHING))]
            for question, prompt in asked
        ]
        writer.score([asked[0][1].ids], Completion("warm up"))
        tree, single, difference = float("inf"), float("inf"), 0.0
        for _ in range(ROUNDS):
            start = time.perf_counter()
            explained = [explain(writer, q, prompt, Completion(q.real_text or ""), NOTHING) for q, prompt in asked]
            tree = min(tree, time.perf_counter() - start)
            start = time.perf_counter()
            alone = [
                [writer.score([ids], Completion(question.real_text or ""))[0].nll for ids in of_target]
                for (question, _), of_target in zip(asked, prompts, strict=True)
            ]
            single = min(single, time.perf_counter() - start)
            for found, (whole, *others) in zip(explained, alone, strict=True):
                pairs = zip(found.effects, others, strict=True)
                difference = max(difference, *(abs(effect.nats - (other - whole)) for effect, other in pairs))
    figures = {
        "targets": len(asked),
        "prompts": [len(of_target) for of_target in prompts],
        "tree_seconds": tree,
        "single_seconds": single,
        "single_over_tree": single / tree,
        "largest_difference_nats": difference,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
