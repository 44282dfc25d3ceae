"""Write the report of all stages, from the per-target rows and the manifests alone."""

import argparse
import json
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.reporting.report import page, short_table, stage_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("html", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--stages", type=json.loads, required=True)
    parser.add_argument("--caution", required=True, help="what a reader must know before the figures, or nothing")
    args = parser.parse_args()
    table = stage_table(args.stages)
    artefacts.write_text(table.write_csv(separator="\t", float_precision=4), args.table)
    artefacts.write_text(page(args.stages, table, args.caution), args.html)
    print(short_table(table))


if __name__ == "__main__":
    run_command(main)
