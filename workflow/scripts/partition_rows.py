"""Read a raw data set and store its usable rows, one folder per part of the users."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.files import write_json
from persona.ingestion.formats import FORMATS
from persona.ingestion.ingest import partition_rows
from persona.ingestion.settings import Options
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tables.user_ranges import parse_bucket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", help="one folder per part of the users, named 3-of-8")
    parser.add_argument("--format", choices=sorted(FORMATS), required=True)
    parser.add_argument("--options", type=json.loads, required=True, help="JSON of Options: how to read the data set")
    parser.add_argument("--rejects", type=Path, required=True)
    parser.add_argument("--n-rows", type=Path, required=True)
    args = parser.parse_args()
    folders = sorted(args.folders, key=lambda folder: parse_bucket(folder.name))
    n_rows, rejects = partition_rows(args.raw, args.format, folders, Options.model_validate(args.options))
    write_table(rejects, args.rejects, schemas.REJECTS)
    write_json({"rows": n_rows}, args.n_rows)


if __name__ == "__main__":
    run_command(main)
