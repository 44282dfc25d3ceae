"""Start a benchmark in several processes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.corpus import ROOT


def run_workers(module: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Start a benchmark's module under torchrun, with its options and `--worker`; the figures that it leaves."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items() if name != "worker"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.processes}"]
    subprocess.run([*command, "-m", module, *options, f"--worker={folder}"], check=True, cwd=ROOT)
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return figures
