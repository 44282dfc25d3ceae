"""Compute the metrics of the baselines from their rows."""

import argparse
from pathlib import Path

import polars as pl

from persona.errors import run_command
from persona.evaluation.metrics.summary import baseline_metrics
from persona.evaluation.targets import choose_targets
from persona.files import write_json
from persona.tables import schemas
from persona.tables.parquet import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the baselines' tables")
    parser.add_argument("--candidates", type=int, required=True)
    parser.add_argument("--n-targets", type=int, required=True, help="number of targets for which models write texts")
    parser.add_argument("--seed", type=int, required=True, help="seed of the choice of these targets")
    args = parser.parse_args()
    targets = read_table(args.targets, schemas.TARGETS)
    written_for = choose_targets(targets.filter(pl.col("cohort") == "test"), args.n_targets, args.seed)
    metrics = baseline_metrics(
        read_table(args.folder / "ngram.parquet", schemas.SCORES),
        read_table(args.folder / "authors.parquet", schemas.AUTHORS),
        read_table(args.folder / "ratings.parquet", schemas.RATINGS),
        read_table(args.folder / "texts.parquet", schemas.GENERATIONS),
        targets,
        written_for["interaction_id"].to_list(),
        args.candidates,
    )
    write_json(metrics, args.output)


if __name__ == "__main__":
    run_command(main)
