"""Start a benchmark in several processes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.corpus import ROOT
from persona.modeling.processes import distributed_processes


def run(
    args: argparse.Namespace,
    measure: Callable[[Path, argparse.Namespace], dict[str, Any]],
    work: Callable[[Path, argparse.Namespace], None],
) -> None:
    """Run a benchmark and print its figures; in a process that `run_workers` started, do its share of the work.

    Args:
        args: with `worker`, the folder that such a process was given.
        measure: from an empty folder to the figures, by way of `run_workers`.
        work: what each process does in its folder.
    """
    if args.worker:
        with distributed_processes():
            work(args.worker, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), args)))


def run_workers(module: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Start a benchmark's module under torchrun, with its options and `--worker`; the figures that it leaves."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items() if name != "worker"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.processes}"]
    subprocess.run([*command, "-m", module, *options, f"--worker={folder}"], check=True, cwd=ROOT)
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return figures
