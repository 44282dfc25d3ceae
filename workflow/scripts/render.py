"""Render the prompt and completion of every target of a sample."""

import argparse
import json
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.prompts import Parts, load_style, render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    for name in ("sample", "interactions", "users", "items", "style"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--parts", type=json.loads, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--cue", required=True)
    args = parser.parse_args()
    prompts = render(
        artefacts.read_table(args.sample, artefacts.SAMPLES),
        artefacts.read_table(args.interactions, artefacts.INTERACTIONS),
        artefacts.read_table(args.users, artefacts.USERS),
        artefacts.read_table(args.items, artefacts.ITEMS),
        load_style(args.style),
        Parts(**args.parts),
        args.task,
        args.cue,
    )
    artefacts.write_table(prompts, args.output, artefacts.PROMPTS)


if __name__ == "__main__":
    run_command(main)
