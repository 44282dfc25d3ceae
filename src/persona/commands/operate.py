"""`persona status`, `disk`, `cancel` and `calibrate`: what trains, the disk, and how fast this machine is."""

from __future__ import annotations

import argparse
from pathlib import Path

from persona.errors import PersonaError
from persona.operations.slurm import cancel_jobs
from persona.operations.status import status_table
from persona.operations.storage import delete, list_items, storage_table


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
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


def run(args: argparse.Namespace) -> None:
    """Answer one of the commands."""
    print(_answer(args))


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
