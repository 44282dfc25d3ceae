"""Join the targets of all parts of the users, and keep at most max_users users."""

import argparse
import json
from pathlib import Path

import polars as pl

from persona.errors import run_command
from persona.sampling import check_sample, limit_users
from persona.tables import schemas
from persona.tables.parquet import write_tables
from persona.tables.user_ranges import read_buckets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON: how the sample is drawn")
    args = parser.parse_args()
    tables = read_buckets(args.parts, schemas.SAMPLES)
    max_users = args.settings["max_users"]
    if max_users is not None:
        tables = iter([limit_users(pl.concat(tables), max_users, args.settings["sample_seed"])])
    write_tables(tables, args.output, schemas.SAMPLES)
    check_sample(args.output, args.settings["split_name"])


if __name__ == "__main__":
    run_command(main)
