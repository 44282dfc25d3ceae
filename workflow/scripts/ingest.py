"""Read a raw data set into interactions, users, items and rejects."""

import argparse
from pathlib import Path

from persona import ingest
from persona.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--format", choices=sorted(ingest.READERS), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the four tables go")
    args = parser.parse_args()
    tables = ingest.ingest(args.raw, args.format)
    ingest.write(tables, args.folder)
    print(ingest.summary(tables))


if __name__ == "__main__":
    run_command(main)
