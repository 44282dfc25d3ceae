"""Guess stars, write reviews, tell authors and foretell characters without a language model."""

import argparse
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.evaluation.baselines.baselines import all_baselines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("interactions", "split", "targets"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    tables = all_baselines(
        artefacts.read_table(args.interactions, artefacts.INTERACTIONS),
        artefacts.read_table(args.split, artefacts.SPLIT),
        artefacts.read_table(args.targets, artefacts.TARGETS),
        args.seed,
    )
    artefacts.write_table(tables.ratings, args.folder / "ratings.parquet", artefacts.RATINGS)
    artefacts.write_table(tables.texts, args.folder / "texts.parquet", artefacts.GENERATIONS)
    artefacts.write_table(tables.authors, args.folder / "authors.parquet", artefacts.AUTHORS)
    artefacts.write_table(tables.ngram, args.folder / "ngram.parquet", artefacts.SCORES)


if __name__ == "__main__":
    run_command(main)
