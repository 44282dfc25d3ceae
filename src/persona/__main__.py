"""What a person asks beside a running workflow: `python -m persona status`, `disk`, `cancel`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from persona.errors import PersonaError
from persona.operations.slurm import cancel_jobs
from persona.operations.status import status_table
from persona.operations.storage import delete, list_items, storage_table


def main() -> None:
    parser = argparse.ArgumentParser(prog="persona", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="trainings: state, step, loss, time left")
    disk = commands.add_parser("disk", help="what lies in the results, how large it is, and what may be deleted")
    disk.add_argument("--delete", action="store_true", help="delete what nothing needs")
    disk.add_argument("--old", action="store_true", help="with --delete: trainings of earlier settings as well")
    for command in (status, disk):
        command.add_argument("results", type=Path, nargs="?", default=Path("results"), help="default: results")
    cancel = commands.add_parser("cancel", help="cancel the Slurm jobs that work in this folder")
    cancel.add_argument("folder", type=Path, nargs="?", default=Path(), help="default: this one")
    args = parser.parse_args()
    try:
        print(_answer(args))
    except PersonaError as error:
        sys.exit(f"error: {error}")


def _answer(args: argparse.Namespace) -> str:
    if args.command == "cancel":
        return cancel_jobs(args.folder)
    if not args.results.is_dir():
        raise PersonaError(f"{args.results}: no such folder; name the one that results_dir of the configuration names")
    if args.command == "status":
        return status_table(args.results)
    items = list_items(args.results)
    return f"{storage_table(items)}\n{delete(items, args.old)}" if args.delete else storage_table(items)


if __name__ == "__main__":
    main()
