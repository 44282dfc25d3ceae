"""Check that all prompts and models leave out the same val and test targets."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.files import write_json
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.tokenization.overlong import check_same_targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--overlong", type=json.loads, required=True, help="JSON: by cohort and name, the table")
    args = parser.parse_args()
    left_out = {}
    for cohort, paths in args.overlong.items():
        tables = {name: read_table(path, schemas.OVERLONG) for name, path in paths.items()}
        check_same_targets(tables)
        left_out[cohort] = next(iter(tables.values())).height
    write_json(left_out, args.output)


if __name__ == "__main__":
    run_command(main)
