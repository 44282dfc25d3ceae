"""Commands to use beside the workflow: `python -m persona status`, `disk`, `cancel`, `calibrate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from persona.errors import PersonaError
from persona.operations.slurm import cancel_jobs
from persona.operations.status import status_table
from persona.operations.storage import delete, list_items, storage_table


def main() -> None:
    """Answer one command."""
    parser = argparse.ArgumentParser(prog="persona", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="show the state, step, loss and time left of each training")
    disk = commands.add_parser("disk", help="show what is in the results, its size, and what can be deleted")
    disk.add_argument("--delete", action="store_true", help="delete what is not needed any more")
    disk.add_argument("--old", action="store_true", help="with --delete: also delete trainings with earlier settings")
    for command in (status, disk):
        command.add_argument("results", type=Path, nargs="?", default=Path("results"), help="default: results")
    cancel = commands.add_parser("cancel", help="cancel the Slurm jobs that Snakemake submitted in this folder")
    cancel.add_argument("folder", type=Path, nargs="?", default=Path(), help="default: the current folder")
    calibrate = commands.add_parser("calibrate", help="measure this machine for the plan: a `hardware` section")
    calibrate.add_argument("--processes", type=int, help="default: one per GPU; 2 without GPUs")
    args = parser.parse_args()
    try:
        print(_answer(args))
    except PersonaError as error:
        sys.exit(f"error: {error}")


def _answer(args: argparse.Namespace) -> str:
    if args.command == "cancel":
        return cancel_jobs(args.folder)
    if args.command == "calibrate":
        # It imports torch; the other commands answer at once.
        from persona.planning.calibration import calibrate, section

        return section(calibrate(args.processes))
    if not args.results.is_dir():
        raise PersonaError(f"{args.results}: no such folder; give the folder that is results_dir in your configuration")
    if args.command == "status":
        return status_table(args.results)
    items = list_items(args.results)
    return f"{storage_table(items)}\n{delete(items, args.old)}" if args.delete else storage_table(items)


if __name__ == "__main__":
    main()
