"""What breaks on one machine. After each fault one rerun completes, and nothing is deleted by hand."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from persona.training.logs import read_log
from tests.workflow.conftest import Terminal, command, on_a_small_disk, snakemake, wait_until

RESULTS = Path("results") / "dmsc"
Losses = list[tuple[int, float | None, float | None]]
TRAINED = Path("two_per_user") / "profile_and_context" / "tiny"


def copy_of(finished: Path, folder: Path) -> Path:
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    return folder


def losses(folder: Path) -> Losses:
    """Each step with its loss, and each validation with its own."""
    log = folder / RESULTS / "models" / TRAINED / "train_log.jsonl"
    return [(record["step"], record.get("loss"), record.get("val_loss")) for record in read_log(log)]


def test_a_disk_that_is_full_within_a_table(finished: Path, tmp_path: Path, small_config: dict[str, Any]) -> None:
    tokens = RESULTS / "tokens" / "two_per_user" / "profile_and_history" / "tiny_qwen3_moe.parquet"
    snake = " ".join(command(tmp_path, small_config, "--cores", "2", str(tokens)))
    done = on_a_small_disk(
        tmp_path / "results",
        "300k",
        f"{snake}; echo first $?; mount -o remount,size=100m results; {snake}; echo second $?; cp -r results kept",
    )
    assert "first 1" in done.stdout and "second 0" in done.stdout, done.stdout + done.stderr
    assert "error: no room left on the disk" in done.stderr
    made = [file.relative_to(tmp_path / "kept") for file in (tmp_path / "kept").rglob("*.parquet")]
    assert len(made) > 7
    for file in made:
        assert (tmp_path / "kept" / file).read_bytes() == (finished / "results" / file).read_bytes(), file


def test_a_table_that_is_cut_off_is_made_again(finished: Path, tmp_path: Path, small_config: dict[str, Any]) -> None:
    copy_of(finished, tmp_path)
    tokens = RESULTS / "tokens" / "test" / "profile_and_context" / "tiny_qwen3_moe.parquet"
    for name in (RESULTS / "interactions.parquet", tokens):
        os.truncate(tmp_path / name, 2000)
    run = snakemake(tmp_path, small_config, str(RESULTS / "interactions.parquet"), str(tokens))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "interactions.parquet is cut off; it was renamed to interactions.parquet.damaged" in run.stderr
    for file in (finished / RESULTS).rglob("*.parquet"):
        again = tmp_path / file.relative_to(finished)
        assert again.read_bytes() == file.read_bytes(), file


def untrained_copy(finished: Path, folder: Path) -> Path:
    """A copy in which all data is there, and one stage is not trained."""
    copy_of(finished, folder)
    for kind in ("models", "runs"):
        shutil.rmtree(folder / RESULTS / kind / TRAINED)
    return folder


@pytest.fixture
def untrained(finished: Path, tmp_path: Path) -> Path:
    return untrained_copy(finished, tmp_path)


@pytest.fixture(scope="module")
def long_config(small_config: dict[str, Any]) -> dict[str, Any]:
    """A training that can be caught within."""
    recipe = small_config["recipes"]["tiny"]
    changed = {"max_epochs": 20, "early_stopping_patience": 20, "lr_scheduler_type": "constant_with_warmup"}
    return small_config | {"recipes": {"tiny": recipe | changed}}


@pytest.fixture(scope="module")
def whole(finished: Path, long_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """The steps and losses of the long training without a fault."""
    folder = untrained_copy(finished, tmp_path_factory.mktemp("whole"))
    run = snakemake(folder, long_config, "train_quick")
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(losses(folder)) > 60
    return losses(folder)


def in_training(folder: Path) -> bool:
    log = folder / RESULTS / "runs" / TRAINED / "v1" / "train_log.jsonl"
    return log.exists() and log.read_text().count('"step"') > 6


def messages(folder: Path) -> str:
    return (folder / RESULTS / "runs" / TRAINED / "v1" / "training_logs" / "detailed_training_log.txt").read_text()


def test_ctrl_c_saves_and_the_rest_comes_and_a_second_run_is_refused(
    untrained: Path, whole: Losses, long_config: dict[str, Any], terminal: Terminal
) -> None:
    process = terminal(command(untrained, long_config, "--cores", "2", "train_quick"), untrained)
    wait_until(lambda: any((untrained / ".snakemake" / "locks").glob("*")))
    # It must not keep the test from stopping the first one in time.
    with ThreadPoolExecutor() as thread:
        second = thread.submit(snakemake, untrained, long_config, "train_quick")
        wait_until(lambda: in_training(untrained))
        children = process.children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
    assert second.result().returncode != 0
    assert "Directory cannot be locked" in second.result().stderr
    assert process.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert "told to stop (SIGINT): saved after step " in messages(untrained)
    run = snakemake(untrained, long_config, "train_quick")
    assert run.returncode == 0, run.stdout + run.stderr
    assert losses(untrained) == whole


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_losses(
    untrained: Path, whole: Losses, long_config: dict[str, Any], terminal: Terminal
) -> None:
    """Snakemake alone is killed."""
    config = copy.deepcopy(long_config)
    config["recipes"]["tiny"]["checkpoint_every_steps"] = 2
    process = terminal(command(untrained, config, "--cores", "2", "train_quick"), untrained)
    latest = untrained / RESULTS / "runs" / TRAINED / "v1" / "latest.json"
    wait_until(latest.exists)
    family = process.children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert not (untrained / RESULTS / "models" / TRAINED / "manifest.json").exists()

    assert snakemake(untrained, config, "--unlock").returncode == 0
    changed = copy.deepcopy(config)
    changed["recipes"]["tiny"]["learning_rate"] = 1.0e-3
    refused = snakemake(untrained, changed, "train_quick")
    assert refused.returncode != 0
    assert "holds an unfinished training of something else (learning_rate: was 0.004, is 0.001)" in refused.stderr

    run = snakemake(untrained, config, "train_quick")
    assert run.returncode == 0, run.stdout + run.stderr
    assert losses(untrained) == whole
    assert "going on after step" in messages(untrained)


def test_a_recipe_for_more_gpus_than_there_are_starts_nothing(untrained: Path, small_config: dict[str, Any]) -> None:
    recipe = {key: value for key, value in small_config["recipes"]["tiny"].items() if key != "cpu_processes"}
    run = snakemake(untrained, small_config | {"recipes": {"tiny": recipe | {"gpus": 4096}}}, "train_quick")
    assert run.returncode != 0
    assert "error: recipes.tiny asks for gpus: 4096, and torch finds" in run.stderr
    assert "rule train:" not in run.stdout + run.stderr


def test_a_copied_folder_is_accepted(finished: Path, tmp_path: Path, small_config: dict[str, Any]) -> None:
    """With its `.snakemake`, whatever times the copy gave the files."""
    subprocess.run(["cp", "-r", f"{finished}/.", tmp_path], check=True)
    run = snakemake(tmp_path, small_config, "train_all", "evaluate_all", "--dry-run")
    assert "Nothing to be done" in run.stdout + run.stderr, run.stdout
