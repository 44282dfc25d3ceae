"""Join the tables of all parts of the users, choose the items' titles, and check that no row is lost."""

import argparse
import json
from pathlib import Path

import polars as pl

from persona.errors import run_command
from persona.files import write_json
from persona.ingestion.formats import FORMATS
from persona.ingestion.ingest import summary, write_and_check
from persona.ingestion.tables import sum_titles, temporary_folder
from persona.tables import schemas
from persona.tables.parquet import read_table, write_tables
from persona.tables.user_ranges import read_buckets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    for name in ("interactions", "users", "titles", "rejects"):
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True)
    parser.add_argument("--n-rows", type=Path, required=True)
    parser.add_argument("--format", choices=sorted(FORMATS), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the four tables to write")
    parser.add_argument("--max-reject-share", type=float, required=True)
    args = parser.parse_args()
    titles = sum_titles([read_table(path, schemas.TITLES) for path in args.titles])
    rejects = pl.concat([read_table(path, schemas.REJECTS) for path in args.rejects])
    n_rows = json.loads(args.n_rows.read_text())["rows"]
    with temporary_folder(args.folder) as temporary:
        for name, table_schema in {"interactions": schemas.INTERACTIONS, "users": schemas.USERS}.items():
            tables = read_buckets(getattr(args, name), table_schema)
            write_tables(tables, temporary / f"{name}.parquet", table_schema)
        counts = write_and_check(
            args.raw, args.format, n_rows, titles, rejects, temporary, args.folder, args.max_reject_share
        )
    write_json(counts, args.folder / "ingest.json")
    print(summary(counts))


if __name__ == "__main__":
    run_command(main)
