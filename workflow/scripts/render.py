"""Render the prompt and completion of every target of a sample."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.prompts import PromptSpec, render_file
from persona.tables import schemas
from persona.tables.parquet import write_tables
from persona.tables.user_ranges import parse_bucket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    for name in ("sample", "interactions", "split", "users", "items", "style"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--split-name", required=True, help="the split of the sample")
    parser.add_argument("--prompt", type=json.loads, required=True, help="JSON of PromptSpec without its style")
    parser.add_argument("--bucket", type=parse_bucket, default=(1, 1), help="which part of the users, 3-of-8")
    args = parser.parse_args()
    spec = PromptSpec.load(args.style, args.prompt)
    tables = render_file(
        args.sample, args.interactions, args.users, args.items, spec, args.bucket, (args.split, args.split_name)
    )
    write_tables(tables, args.output, schemas.PROMPTS)


if __name__ == "__main__":
    run_command(main)
