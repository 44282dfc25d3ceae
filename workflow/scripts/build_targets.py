"""Build the table of the val and test targets, and group them in blocks of impostors."""

import argparse
from pathlib import Path

import polars as pl

from persona.errors import run_command
from persona.evaluation.targets import build_targets, count_blocks, too_few_candidates
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tables.splits import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--candidates", type=int, required=True, help="users among whom an author is identified")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--overlong", type=Path, nargs="+", required=True, help="targets that do not fit, left out")
    args = parser.parse_args()
    overlong = pl.concat([read_table(path, schemas.OVERLONG) for path in args.overlong])
    cohorts = {
        name: read_table(getattr(args, name), schemas.SAMPLES).join(overlong, on="interaction_id", how="anti")
        for name in ("val", "test")
    }
    interactions = read_table(args.interactions, schemas.INTERACTIONS)
    targets = build_targets(cohorts, interactions, args.candidates, args.seed, read_split(args.split))
    write_table(targets, args.output, schemas.TARGETS)
    for row in count_blocks(targets, args.candidates).iter_rows(named=True):
        print(
            f"{row['cohort']}, {'with' if row['has_history'] else 'without'} history: {row['targets']:,} targets, "
            f"{row['with_impostors']:,} with impostors, {row['with_candidates']:,} among {args.candidates} or more"
        )
    if problem := too_few_candidates(targets, args.candidates):
        print(f"note: {problem}")


if __name__ == "__main__":
    run_command(main)
