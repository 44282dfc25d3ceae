"""Join the tables of all parts of the users into one."""

import argparse
from pathlib import Path

from persona.errors import run_command
from persona.tables import schemas
from persona.tables.parquet import read_table, write_tables
from persona.tables.splits import check_splits
from persona.tables.user_ranges import read_buckets

SCHEMAS = {
    "split": schemas.SPLIT,
    "split_of_reviews": schemas.SPLIT_OF_REVIEWS,
    "prompts": schemas.PROMPTS,
    "tokens": schemas.TOKENS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--schema", choices=sorted(SCHEMAS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    table_schema = SCHEMAS[args.schema]
    write_tables(read_buckets(args.parts, table_schema), args.output, table_schema)
    if args.schema.startswith("split"):
        check_splits(read_table(args.output, table_schema, ["split"]))


if __name__ == "__main__":
    run_command(main)
