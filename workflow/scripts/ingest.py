"""Read a raw data set into interactions, users, items and rejects."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.files import write_json
from persona.ingestion.formats import FORMATS
from persona.ingestion.ingest import ingest, summary
from persona.ingestion.settings import Options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--format", choices=sorted(FORMATS), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the four tables to write")
    parser.add_argument("--options", type=json.loads, required=True, help="JSON of Options: how to read the data set")
    parser.add_argument("--max-reject-share", type=float, required=True)
    args = parser.parse_args()
    counts = ingest(args.raw, args.format, args.folder, Options.model_validate(args.options), args.max_reject_share)
    write_json(counts, args.folder / "ingest.json")
    print(summary(counts))


if __name__ == "__main__":
    run_command(main)
