"""Cancel the Slurm jobs of a Snakemake that was killed."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from pathlib import Path

from persona.errors import PersonaError

PATIENCE_SECONDS = 120.0


def cancel_jobs(folder: Path) -> str:
    """Cancel this user's Slurm jobs that Snakemake submitted in `folder`, and wait until they have ended.

    Returns:
        A message with the ids of the cancelled jobs and the next step.

    Raises:
        PersonaError: Slurm is not installed, a Slurm command fails, or a job does not end in time.
    """
    folder = folder.resolve()
    if shutil.which("squeue") is None:
        raise PersonaError("squeue is not on PATH; run this command on the machine from which you submit jobs")
    jobs = jobs_in(folder)
    if not jobs:
        return f"no Slurm job of yours was submitted by Snakemake in {folder}"
    _call("scancel", *jobs)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := jobs_in(folder):
        if time.monotonic() > deadline:
            raise PersonaError(f"jobs {', '.join(left)} have not ended; check: squeue --jobs {','.join(left)}")
        time.sleep(0.5)
    return f"cancelled {', '.join(jobs)}; now run snakemake --unlock and then the same command again"


def jobs_in(folder: Path) -> list[str]:
    """Ids of this user's jobs that Snakemake submitted in `folder`, in any state."""
    listed = _call("squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i\t%k\t%Z")
    jobs = [line.split("\t") for line in listed.splitlines()]
    # Snakemake writes the rule into the comment. Jobs without it were submitted by something else.
    return [job for job, comment, path in jobs if comment.startswith("rule_") and Path(path).resolve() == folder]


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PersonaError(f"{command[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
