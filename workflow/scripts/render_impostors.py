"""Render the prompts of the test targets with each of their impostors as the user."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.evaluation.targets import impostor_pairs
from persona.prompts import PromptSpec, render_pairs_file
from persona.tables import schemas
from persona.tables.parquet import read_table, write_tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    for name in ("targets", "interactions", "split", "users", "items", "style"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--prompt", type=json.loads, required=True, help="JSON: parts, task, cue, history")
    args = parser.parse_args()
    spec = PromptSpec.load(args.style, args.prompt)
    pairs = impostor_pairs(read_table(args.targets, schemas.TARGETS))
    tables = render_pairs_file(pairs, args.interactions, args.users, args.items, spec, args.split)
    write_tables(tables, args.output, schemas.PROMPTS)


if __name__ == "__main__":
    run_command(main)
