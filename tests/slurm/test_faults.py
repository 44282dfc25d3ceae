"""What breaks on a cluster: after each fault the same command completes, with the results of a run without faults."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from persona.training.logs import read_log
from tests.slurm.conftest import clients, on_slurm, slurm_command, untrained_copy
from tests.workflow.conftest import Terminal, snakemake

pytestmark = pytest.mark.slow

RESULTS = Path("results") / "dmsc"
TRAINED = Path("two_per_user") / "profile_and_context" / "tiny"
RUN = RESULTS / "runs" / TRAINED / "v1"


@pytest.fixture
def long_config(config: dict[str, Any]) -> dict[str, Any]:
    """A training that can be caught within."""
    config = copy.deepcopy(config)
    changed = {"max_epochs": 120, "early_stopping_patience": 120, "lr_scheduler_type": "constant_with_warmup"}
    config["recipes"]["tiny"] |= changed
    return config


def losses(folder: Path) -> list[float]:
    log = folder / RESULTS / "models" / TRAINED / "train_log.jsonl"
    return [record["loss"] for record in read_log(log) if record["type"] == "step"]


def wait_until(happened: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def steps_done(folder: Path) -> int:
    log = folder / RUN / "train_log.jsonl"
    return log.read_text().count('"step", ') if log.exists() else 0


def jobs_of(folder: Path) -> list[str]:
    """Jobs that wait, run or end."""
    lines = clients("squeue", "--noheader", "--format", "%i %Z").splitlines()
    return [line.split()[0] for line in lines if line.endswith(str(folder))]


def state_of(job: str) -> str:
    return clients("squeue", "--noheader", "--jobs", job, "--format", "%T").strip()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Launchers and ranks that train in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if any(word.endswith("train.py") for word in process.info["cmdline"] or []):
            found += [process] if process.info["cwd"] == str(folder) else []
    return found


def persona(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "persona", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def wait_for_steps(folder: Path, more: int) -> None:
    goal = steps_done(folder) + more
    wait_until(lambda: steps_done(folder) >= goal)


@pytest.mark.long
def test_a_training_survives_all_that_happens_to_its_job(
    local: Path,
    prepared: Path,
    tmp_path_factory: pytest.TempPathFactory,
    long_config: dict[str, Any],
    terminal: Terminal,
) -> None:
    folder = prepared
    process = terminal(slurm_command(folder, long_config, "train_quick"), folder)
    wait_for_steps(folder, 10)
    assert "running" in persona(folder, "status")

    clients("scancel", *jobs_of(folder))  # by hand, or by an administrator: it is submitted again
    wait_until(lambda: "Trying to restart job" in (folder / "output").read_text())
    wait_for_steps(folder, 10)

    [job] = jobs_of(folder)
    node = clients("squeue", "--noheader", "--jobs", job, "--format", "%N").strip()
    clients("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_until(lambda: state_of(job) == "PENDING" and not processes_of(folder))
    time.sleep(5)
    clients("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm would let it wait for two minutes
    wait_for_steps(folder, 10)

    process.kill()  # Snakemake itself: its job lives on
    process.wait()
    assert jobs_of(folder)
    assert re.fullmatch(r"cancelled \d+; now run snakemake --unlock and then the same command again\n",
                        persona(folder, "cancel"))  # fmt: skip
    assert not jobs_of(folder)
    refused = on_slurm(folder, long_config, "train_quick")
    assert "Directory cannot be locked" in refused.stderr
    assert snakemake(folder, long_config, "--unlock").returncode == 0

    process = terminal(slurm_command(folder, long_config, "train_quick"), folder)
    wait_for_steps(folder, 10)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C: its job is cancelled
    assert process.wait(timeout=60) != 0
    wait_until(lambda: not jobs_of(folder))

    run = on_slurm(folder, long_config, "train_quick")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "finished" in persona(folder, "status")
    whole = untrained_copy(local, tmp_path_factory.mktemp("whole"))
    alone = snakemake(whole, long_config, "train_quick")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert len(losses(whole)) > 100
    assert losses(folder) == losses(whole)


@pytest.mark.long  # a minute is the shortest limit
def test_a_time_limit_is_not_lost_time(prepared: Path, long_config: dict[str, Any], terminal: Terminal) -> None:
    """A minute is the shortest limit; the training is told to stop after 48 seconds, and goes on in another job."""
    recipe = long_config["recipes"]["tiny"]
    # Only the signal saves.
    recipe |= {"max_epochs": 2000, "early_stopping_patience": 2000, "checkpoint_every_steps": None}
    command = slurm_command(prepared, long_config, "train_quick", "--set-resources", "train:runtime=1")
    process = terminal(command, prepared)
    wait_until(lambda: "Trying to restart job" in (prepared / "output").read_text(), 120)
    log = prepared / RUN / "training_logs" / "detailed_training_log.txt"
    [saved] = map(int, re.findall(r"told to stop \(SIGTERM\): saved after step (\d+);", log.read_text()))
    wait_until(lambda: f"going on after step {saved}" in log.read_text())
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=60)


@pytest.fixture
def hungry(prepared: Path) -> Iterator[Path]:
    """Data of which nothing is ingested yet."""
    (prepared / RESULTS / "interactions.parquet").unlink()
    yield prepared


@pytest.mark.long
def test_a_data_job_killed_for_memory_gets_more(hungry: Path, local: Path, config: dict[str, Any]) -> None:
    run = on_slurm(hungry, config, str(RESULTS / "split.parquet"), "--forcerun", "ingest",
                   "--set-resources", "ingest:mem_mb=90*attempt**3")  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Trying to restart job" in run.stderr
    for name in ("interactions", "split"):
        file = RESULTS / f"{name}.parquet"
        assert (hungry / file).read_bytes() == (local / file).read_bytes()
