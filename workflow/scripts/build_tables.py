"""Sort the stored rows of a part of the users and write its tables."""

import argparse
from pathlib import Path

from persona.errors import run_command
from persona.ingestion.formats import FORMATS
from persona.ingestion.ingest import build_tables
from persona.tables import schemas
from persona.tables.parquet import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--format", choices=sorted(FORMATS), required=True)
    for name in ("interactions", "users", "titles", "repeats"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    built = build_tables(args.rows, args.format, args.interactions, args.users)
    write_table(built.titles, args.titles, schemas.TITLES)
    write_table(built.repeats, args.repeats, schemas.REJECTS)


if __name__ == "__main__":
    run_command(main)
