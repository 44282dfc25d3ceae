"""Compute the baselines without a language model: stars, texts, authors, character likelihoods."""

import argparse
from pathlib import Path

from persona.errors import run_command
from persona.evaluation.baselines.baselines import all_baselines
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tables.splits import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("interactions", "split", "targets"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    tables = all_baselines(
        read_table(args.interactions, schemas.INTERACTIONS),
        read_split(args.split),
        read_table(args.targets, schemas.TARGETS),
        args.seed,
    )
    write_table(tables.ratings, args.folder / "ratings.parquet", schemas.RATINGS)
    write_table(tables.texts, args.folder / "texts.parquet", schemas.GENERATIONS)
    write_table(tables.authors, args.folder / "authors.parquet", schemas.AUTHORS)
    write_table(tables.ngram, args.folder / "ngram.parquet", schemas.SCORES)


if __name__ == "__main__":
    run_command(main)
