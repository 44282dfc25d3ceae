"""Write a synthetic DMSC.csv for the demo and the tests."""

import argparse
from pathlib import Path

from persona.errors import run_command
from persona.ingestion.synthetic import write_dmsc_csv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--habits", choices=["own", "independent"], required=True)
    parser.add_argument("--min-reviews", type=int, default=1)
    args = parser.parse_args()
    write_dmsc_csv(args.output, args.users, args.seed, args.habits, args.min_reviews)


if __name__ == "__main__":
    run_command(main)
