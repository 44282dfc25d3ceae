"""What breaks on one machine. After each fault one rerun completes, and nothing is deleted by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from persona.ingestion.ingest import Ingested
from persona.modeling import tiny
from persona.training.logs import read_log
from tests.workflow.conftest import Terminal, command, environment, snakemake
from tests.workflow.training import command as train_command
from tests.workflow.training import deepspeed_file, run, schedule, train

RESULTS = Path("results") / "dmsc"
TRAINED = Path("two_per_user") / "profile_and_context" / "tiny"


def copy_of(finished: Path, folder: Path) -> Path:
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    return folder


def losses(folder: Path) -> list[float]:
    log = folder / RESULTS / "models" / TRAINED / "train_log.jsonl"
    return [record["loss"] for record in read_log(log) if record["type"] == "step"]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def on_a_small_disk(place: Path, size: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script whose folder `place` is a file system of `size`; what it is to leave it must copy out."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = f'mount -t tmpfs -o size={size} tmpfs "{place}"\n{script}'
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "bash", "-c", mounted],
        cwd=place.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


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


def test_a_disk_that_is_full_within_a_checkpoint(
    folder: Path, tables: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else takes the room after it was looked at: the newest whole checkpoint stays, and the rest comes."""
    monkeypatch.setattr(tiny, "MAX_PARAMETERS", 20_000_000)  # so that writing it takes a while
    texts = tables.interactions["text"].to_list()
    tiny.write_tiny_model(texts, tmp_path / "base", 500, hidden_size=512, num_hidden_layers=2, num_experts=16, seed=0)
    shutil.copy(folder / "tokens.parquet", tmp_path)
    plan = schedule(800, checkpoint_every_steps=1)
    file = deepspeed_file(tmp_path, 3)
    whole = train(train_command(tmp_path, "whole", 1, plan, file))
    starts = " ".join(map(repr, train_command(tmp_path, "cut", 1, plan, file)))
    saving = "cut/run/checkpoints/step_2"
    # It stands still meanwhile, so that nothing is written between looking for the room and taking it.
    worker = "-f '^[^ ]*python[^ ]* -u .*cut/run'"
    take = "fallocate -l $(df --output=avail -B1 cut | tail -1) cut/filled"
    fill = f"until [[ -e {saving} ]]; do :; done; pkill -STOP {worker}; {take}; pkill -CONT {worker}"
    done = on_a_small_disk(
        tmp_path / "cut",
        "1g",
        f"({fill}) & {starts}; echo first $?; cat cut/run/latest.json; rm cut/filled; {starts}; echo second $?; "
        "cp cut/log.jsonl kept.jsonl",
    )
    assert "first 1" in done.stdout and "second 0" in done.stdout, done.stdout + done.stderr
    assert '"tag": "step_1"' in done.stdout
    assert "the disk or the quota became full; make room and start again" in done.stderr
    steps = [[record["loss"] for record in records if record["type"] == "step"]
             for records in (whole, read_log(tmp_path / "kept.jsonl"))]  # fmt: skip
    assert len(steps[0]) == 3 and steps[0] == steps[1]


def test_a_table_that_is_cut_off_is_made_again(finished: Path, tmp_path: Path, small_config: dict[str, Any]) -> None:
    copy_of(finished, tmp_path)
    for name in ("interactions", "tokens/test/profile_and_context/tiny_qwen3_moe"):
        os.truncate(tmp_path / RESULTS / f"{name}.parquet", 2000)
    shutil.rmtree(tmp_path / RESULTS / "evaluation" / TRAINED)
    run = snakemake(tmp_path, small_config, str(RESULTS / "evaluation" / TRAINED / "metrics.json"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "interactions.parquet is cut off; it was renamed to interactions.parquet.damaged" in run.stderr
    for file in (finished / RESULTS).rglob("*.parquet"):
        again = tmp_path / file.relative_to(finished)
        assert again.read_bytes() == file.read_bytes(), file


@pytest.fixture
def untrained(finished: Path, tmp_path: Path) -> Path:
    """All data is there; one stage is not trained."""
    copy_of(finished, tmp_path)
    for kind in ("models", "runs"):
        shutil.rmtree(tmp_path / RESULTS / kind / TRAINED)
    return tmp_path


@pytest.fixture
def long_config(small_config: dict[str, Any]) -> dict[str, Any]:
    """A training that can be caught within."""
    recipe = small_config["recipes"]["tiny"]
    changed = {"max_epochs": 20, "early_stopping_patience": 20, "lr_scheduler_type": "constant_with_warmup"}
    return small_config | {"recipes": {"tiny": recipe | changed}}


def in_training(folder: Path) -> bool:
    log = folder / RESULTS / "runs" / TRAINED / "v1" / "train_log.jsonl"
    return log.exists() and log.read_text().count('"step"') > 6


def test_ctrl_c_saves_and_the_rest_comes(
    untrained: Path, long_config: dict[str, Any], tmp_path: Path, terminal: Terminal
) -> None:
    whole = tmp_path / "whole"
    copy_of(untrained, whole)
    process = terminal(command(untrained, long_config, "--cores", "2", "train_quick"), untrained)
    wait_until(lambda: in_training(untrained))
    children = process.children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    text = (untrained / RESULTS / "runs" / TRAINED / "v1" / "training_logs" / "detailed_training_log.txt").read_text()
    assert "told to stop (SIGINT): saved after step " in text
    for folder in (untrained, whole):
        run = snakemake(folder, long_config, "train_quick")
        assert run.returncode == 0, run.stdout + run.stderr
    assert losses(untrained) == losses(whole)
    assert len(losses(whole)) > 60


def test_a_second_run_in_a_folder_is_refused(untrained: Path, long_config: dict[str, Any], terminal: Terminal) -> None:
    process = terminal(command(untrained, long_config, "--cores", "2", "train_quick"), untrained)
    wait_until(lambda: in_training(untrained))
    second = snakemake(untrained, long_config, "train_quick")
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stderr
    assert process.wait(timeout=120) == 0


def test_a_recipe_for_more_gpus_than_there_are_starts_nothing(untrained: Path, small_config: dict[str, Any]) -> None:
    recipe = {key: value for key, value in small_config["recipes"]["tiny"].items() if key != "cpu_processes"}
    run = snakemake(untrained, small_config | {"recipes": {"tiny": recipe | {"gpus": 4096}}}, "train_quick")
    assert run.returncode != 0
    assert "error: recipes.tiny asks for gpus: 4096, and torch finds" in run.stderr
    assert "rule train:" not in run.stdout + run.stderr


def test_told_to_stop_it_saves_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """As a cluster tells it before the time is up."""
    plan = schedule(800, max_epochs=8, early_stopping_patience=8)
    file = deepspeed_file(tmp_path, 3)
    whole = train(train_command(folder, "untold", 2, plan, file))
    told = train_command(folder, "told", 2, plan, file)
    process = psutil.Popen(told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = folder / "told" / "run" / "train_log.jsonl"
    wait_until(lambda: log.exists() and log.read_text().count('"step"') > 3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    done = read_log(log)[-1]["step"]
    assert f"error: told to stop (SIGTERM): saved after step {done}; start again to go on" in errors
    assert json.loads((folder / "told" / "run" / "latest.json").read_text())["state"]["global_step"] == done
    resumed = train(told)
    assert [r.get("loss", r.get("val_loss")) for r in resumed] == [r.get("loss", r.get("val_loss")) for r in whole]


def test_a_copied_folder_is_accepted(finished: Path, tmp_path: Path, small_config: dict[str, Any]) -> None:
    """With its `.snakemake`, whatever times the copy gave the files."""
    subprocess.run(["cp", "-r", f"{finished}/.", tmp_path], check=True)
    run = snakemake(tmp_path, small_config, "train_all", "evaluate_all", "--dry-run")
    assert "Nothing to be done" in run.stdout + run.stderr, run.stdout


def test_a_job_that_is_killed_says_so(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("half a line")
    script = Path(__file__).parents[2] / "workflow" / "scripts" / "fail.sh"
    done = run(["bash", str(script), str(log)])
    assert done.returncode == 1
    assert done.stderr.startswith("error: ended before it could say why: killed, for memory perhaps, or no room")
