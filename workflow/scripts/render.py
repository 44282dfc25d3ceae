"""Render the prompt and completion of every target of a sample."""

import argparse
import json
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.prompts import Parts, load_style, render_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    for name in ("sample", "interactions", "users", "items", "style"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--parts", type=json.loads, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--cue", required=True)
    parser.add_argument("--bucket", default="1-of-1", help="which part of the users")
    args = parser.parse_args()
    tables = render_file(
        args.sample,
        args.interactions,
        args.users,
        args.items,
        load_style(args.style),
        Parts(**args.parts),
        args.task,
        args.cue,
        artefacts.bucket(args.bucket),
    )
    with artefacts.table_writer(args.output, artefacts.PROMPTS) as writer:
        for prompts in tables:
            writer.write(prompts)


if __name__ == "__main__":
    run_command(main)
