"""Join the tables of all parts of the users into one."""

import argparse
from pathlib import Path

from persona import artefacts
from persona.errors import run_command

ARTEFACTS = {"split": artefacts.SPLIT, "prompts": artefacts.PROMPTS, "tokens": artefacts.TOKENS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--artefact", choices=sorted(ARTEFACTS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    artefact = ARTEFACTS[args.artefact]
    artefacts.write_tables(artefacts.read_buckets(args.parts, artefact), args.output, artefact)


if __name__ == "__main__":
    run_command(main)
