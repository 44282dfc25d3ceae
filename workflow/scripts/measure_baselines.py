"""Turn the rows of the baselines into the metrics that models have."""

import argparse
from pathlib import Path

import polars as pl

from persona import artefacts
from persona.errors import run_command
from persona.evaluation.generation import choose_targets
from persona.evaluation.metrics import baseline_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the baselines' tables are")
    parser.add_argument("--candidates", type=int, required=True)
    parser.add_argument("--n-targets", type=int, required=True, help="targets for which models write reviews")
    parser.add_argument("--seed", type=int, required=True, help="of their choice")
    args = parser.parse_args()
    targets = artefacts.read_table(args.targets, artefacts.TARGETS)
    written_for = choose_targets(targets.filter(pl.col("cohort") == "test"), args.n_targets, args.seed)
    metrics = baseline_metrics(
        artefacts.read_table(args.folder / "ngram.parquet", artefacts.SCORES),
        artefacts.read_table(args.folder / "authors.parquet", artefacts.AUTHORS),
        artefacts.read_table(args.folder / "ratings.parquet", artefacts.RATINGS),
        artefacts.read_table(args.folder / "texts.parquet", artefacts.GENERATIONS),
        targets,
        written_for["interaction_id"].to_list(),
        args.candidates,
    )
    artefacts.write_json(metrics, args.output)


if __name__ == "__main__":
    run_command(main)
