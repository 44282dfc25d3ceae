"""A real Slurm of two nodes on this machine, and data that is prepared once."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import command, snakemake, terminal

__all__ = ["terminal"]

CLUSTER = Path(__file__).with_name("cluster.sh")
# Look every second how jobs are.
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """Its clients are on PATH. Not skipped where Slurm is missing: `make test-slurm` installs it."""
    path = os.environ["PATH"]
    clients = subprocess.run(["bash", CLUSTER, "path"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["bash", CLUSTER, "start"], check=True)
    os.environ["PATH"] = f"{clients}:{Path(sys.executable).parent}:{path}"
    yield
    subprocess.run(["bash", CLUSTER, "stop"], check=True)
    os.environ["PATH"] = path


@pytest.fixture(scope="session")
def config(small_config: dict[str, Any]) -> dict[str, Any]:
    """Two stages of two epochs with a checkpoint after every step; they differ in their learning rate alone."""
    config = copy.deepcopy(small_config)
    config["models"]["tiny_qwen3_moe"]["tiny"] |= {
        "corpus_sample": "two_per_user",
        "corpus_ablation": "profile_and_context",
    }
    quick = config["stages"]["quick"]
    config["stages"] = {"quick": quick, "slow": quick | {"recipe": "slow"}}
    config["evaluation"] = {}
    recipe = config["recipes"]["tiny"] | {"max_epochs": 2, "checkpoint_every_steps": 1}
    recipe |= {"cpu_processes": 2, "gradient_accumulation_steps": 16}
    config["recipes"] = {"tiny": recipe, "slow": recipe | {"learning_rate": 1.0e-4}}
    return config


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Path:
    """Both stages trained without Slurm."""
    folder = tmp_path_factory.mktemp("local")
    run = snakemake(folder, config, "train_all")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def untrained_copy(local: Path, folder: Path) -> Path:
    """A copy of a folder in which nothing is trained yet."""
    shutil.copytree(local, folder, dirs_exist_ok=True)
    for name in ("models", "runs"):
        shutil.rmtree(folder / "results" / "dmsc" / name)
    return folder


@pytest.fixture
def prepared(local: Path, tmp_path: Path) -> Path:
    """All data is there, and nothing is trained."""
    return untrained_copy(local, tmp_path)


def slurm_command(folder: Path, config: dict[str, Any], *arguments: str, profile: str = "slurm") -> list[str]:
    return command(folder, config, "--workflow-profile", profile, *QUICK, *arguments)


def on_slurm(
    folder: Path, config: dict[str, Any], *arguments: str, profile: str = "slurm"
) -> subprocess.CompletedProcess[str]:
    """Run the workflow to its end on the cluster."""
    return subprocess.run(
        slurm_command(folder, config, *arguments, profile=profile),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def clients(*words: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
