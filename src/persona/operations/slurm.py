"""Slurm jobs that a killed Snakemake left behind."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from pathlib import Path

from persona.errors import PersonaError

PATIENCE = 120.0


def cancel_jobs(folder: Path) -> str:
    """Cancel the Slurm jobs that Snakemake submitted for this user in `folder`, and wait until they have ended.

    Raises:
        PersonaError: there is no Slurm here, or a job does not end.
    """
    folder = folder.resolve()
    if shutil.which("squeue") is None:
        raise PersonaError("squeue is not on PATH; run this where you submit jobs")
    jobs = jobs_in(folder)
    if not jobs:
        return f"none of your Slurm jobs was submitted by Snakemake in {folder}"
    _call("scancel", *jobs)
    deadline = time.monotonic() + PATIENCE
    while left := jobs_in(folder):
        if time.monotonic() > deadline:
            raise PersonaError(f"jobs {', '.join(left)} do not end; look at them with: squeue --jobs {','.join(left)}")
        time.sleep(0.5)
    return f"cancelled {', '.join(jobs)}; now: snakemake --unlock, and the same command again"


def jobs_in(folder: Path) -> list[str]:
    """Ids of this user's jobs that Snakemake submitted in `folder`, waiting, running or ending."""
    listed = _call("squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i\t%k\t%Z")
    jobs = [line.split("\t") for line in listed.splitlines()]
    # Snakemake names the rule in the comment; others may work in this folder too.
    return [job for job, comment, place in jobs if comment.startswith("rule_") and Path(place).resolve() == folder]


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PersonaError(f"{command[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
