"""Join the interactions and users of all parts, choose the items' titles, and check that no row got lost."""

import argparse
import json
from pathlib import Path

import polars as pl

from persona import artefacts
from persona.errors import run_command
from persona.ingest import FORMATS, conclude, summary
from persona.ingest.tables import sum_titles, temporary_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    for name in ("interactions", "users", "titles", "rejects"):
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True)
    parser.add_argument("--n-rows", type=Path, required=True)
    parser.add_argument("--format", choices=sorted(FORMATS), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the four tables go")
    parser.add_argument("--max-reject-share", type=float, required=True)
    args = parser.parse_args()
    titles = sum_titles([artefacts.read_table(path, artefacts.TITLES) for path in args.titles])
    rejects = pl.concat([artefacts.read_table(path, artefacts.REJECTS) for path in args.rejects])
    n_rows = json.loads(args.n_rows.read_text())["rows"]
    with temporary_folder(args.folder) as place:
        for name, artefact in {"interactions": artefacts.INTERACTIONS, "users": artefacts.USERS}.items():
            tables = artefacts.read_buckets(getattr(args, name), artefact)
            artefacts.write_tables(tables, place / f"{name}.parquet", artefact)
        counts = conclude(args.raw, args.format, n_rows, titles, rejects, place, args.folder, args.max_reject_share)
    artefacts.write_json(counts, args.folder / "ingest.json")
    print(summary(counts))


if __name__ == "__main__":
    run_command(main)
