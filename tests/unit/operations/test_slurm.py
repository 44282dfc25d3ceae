"""Cancelling jobs, with scripts in place of Slurm's commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persona.errors import PersonaError
from persona.operations import slurm

SQUEUE = """#!/bin/sh
[ -e {folder}/cancelled ] && exit 0
printf '1\trule_train\t{folder}\n2\tmine\t{folder}\n3\trule_train\t/elsewhere\n'
"""
SCANCEL = """#!/bin/sh
echo "$@" > {folder}/cancelled
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with jobs, and Slurm's commands on PATH."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, script in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        (commands / name).write_text(script.format(folder=tmp_path))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_only_jobs_of_snakemake_in_this_folder_are_cancelled(folder: Path) -> None:
    assert slurm.jobs_in(folder) == ["1"]
    assert slurm.cancel_jobs(folder).startswith("cancelled 1; ")
    assert (folder / "cancelled").read_text() == "1\n"
    assert slurm.cancel_jobs(folder) == f"no Slurm job of yours was submitted by Snakemake in {folder}"


def test_a_job_that_does_not_end_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin" / "scancel").write_text("#!/bin/sh\n")
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(PersonaError, match="jobs 1 have not ended; check: squeue --jobs 1"):
        slurm.cancel_jobs(folder)


def test_errors_of_slurm_are_passed_on(folder: Path) -> None:
    (folder / "bin" / "squeue").write_text("#!/bin/sh\necho slurmctld is down >&2; exit 1\n")
    with pytest.raises(PersonaError, match="squeue: slurmctld is down"):
        slurm.cancel_jobs(folder)


def test_without_slurm_the_message_says_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PersonaError, match="squeue is not on PATH"):
        slurm.cancel_jobs(tmp_path)
