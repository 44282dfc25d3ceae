"""Evaluation as the workflow starts it: one launch or several, one process or two, killed or not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from tests.workflow.conftest import ROOT, Terminal, snakemake, wait_until
from tests.workflow.training import torchrun

EVALUATE = ROOT / "workflow" / "scripts" / "evaluate.py"
STOPPING = Path(__file__).with_name("evaluate_and_stop.py")
TABLES = ["scores.parquet", "generations.parquet"]


def evaluation(results: Path, sample: str, out: Path, max_tokens: int = 2048) -> dict[str, Any]:
    """A model of the workflow that was trained on the profile and the history, and where its evaluation goes."""
    tokens = str(results / "tokens/{}/{}/tiny_qwen3_moe.parquet")
    return {
        "name": sample,
        "model": str(results / "models" / sample / "profile_and_history/tiny/model"),
        "is_trained": True,
        "cpu_dtype": "float32",
        "expert_parallel": 1,
        "val_tokens": tokens.format("val", "profile_and_history"),
        "test_tokens": tokens.format("test", "profile_and_history"),
        "empty_tokens": tokens.format("test", "without_user_detailed"),
        "impostor_tokens": None,
        "max_tokens": max_tokens,
        "scores": str(out / "scores.parquet"),
        "generations": str(out / "generations.parquet"),
        "seconds": str(out / "seconds.json"),
    }


def arguments(results: Path, config: dict[str, Any], evaluations: list[dict[str, Any]]) -> list[str]:
    options = {
        "evaluations": json.dumps(evaluations),
        "gpus": 0,
        "targets": results / "targets.parquet",
        "cues": '["预测用户的影评：", "预测用户的评分："]',
        "generation": json.dumps(config["generation"]),
    }
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def start(command: list[str]) -> str:
    """Run a command to its end; its log."""
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def kill_within(
    task: str, process: psutil.Popen, parts: Path, victim: Callable[[psutil.Popen], psutil.Process]
) -> None:
    """Kill one of two processes, of which the second stops within a task, when the first has written its part.

    Args:
        task: the name of the task.
        process: that of torchrun.
        parts: the folder of parts.
        victim: what is killed.
    """
    wait_until(lambda: process.poll() is not None or any((parts / task).glob("*.json")))
    family = process.children(recursive=True)
    victim(process).send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


def second_rank(process: psutil.Popen) -> psutil.Process:
    return next(child for child in process.children() if child.environ().get("RANK") == "1")


def torchrun_itself(process: psutil.Popen) -> psutil.Process:
    return process


def test_a_killed_evaluation_goes_on_to_the_same_bytes(
    finished: Path, tmp_path: Path, small_config: dict[str, Any], terminal: Terminal
) -> None:
    results = finished / "results/dmsc"
    killed = evaluation(results, "two_per_user", tmp_path / "killed")
    options = arguments(results, small_config, [killed])
    parts = tmp_path / "killed" / ".parts"
    for task, victim in {"reviews": second_rank, "scores_test": torchrun_itself}.items():
        process = terminal([*torchrun(2), str(STOPPING), task, *options], tmp_path)
        kill_within(task, process, parts, victim)
    assert not any((tmp_path / "killed").glob("*.parquet"))
    second_start = (tmp_path / "output").read_text().split("evaluation 1 of 1")[-1]
    assert 0.3 < share_done(second_start, "writing reviews") < 0.8

    # The same texts, with another model and the parts of the first.
    changed = evaluation(results, "everything", tmp_path / "changed")
    shutil.copytree(parts, tmp_path / "changed" / ".parts")
    log = start([*torchrun(2), str(EVALUATE), *arguments(results, small_config, [killed, changed])])

    going_on, from_the_beginning = log.split("evaluation 2 of 2: everything")
    assert share_done(going_on, "writing reviews") == 1.0
    assert share_done(going_on, "scoring val") == 1.0
    assert 0.3 < share_done(going_on, "scoring test") < 0.7
    assert from_the_beginning.count("parts of another model, other texts, settings or code") == 3
    for task in ("writing reviews", "scoring val", "scoring test"):
        assert share_done(from_the_beginning, task) == 0.0
    for name, sample in {"killed": "two_per_user", "changed": "everything"}.items():
        uninterrupted = results / "evaluation" / sample / "profile_and_history/tiny"
        for table in TABLES:
            assert (tmp_path / name / table).read_bytes() == (uninterrupted / table).read_bytes()
        assert sorted(os.listdir(tmp_path / name)) == sorted([*TABLES, "seconds.json"]), "parts are left"


def share_done(log: str, task: str) -> float:
    """The share of a task that was done by an earlier start."""
    line = next(line for line in log.splitlines() if f"{task}: " in line and "are done already" in line)
    words = line.replace(",", "").partition(f"{task}: ")[2].split()
    return int(words[words.index("which") + 1]) / int(words[0])


def test_an_untrained_model_is_loaded_once_for_the_prompts_of_all_stages(
    finished: Path, tmp_path: Path, small_config: dict[str, Any]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    results = tmp_path / "results/dmsc"
    one = "results/dmsc/untrained/profile_and_history/tiny_qwen3_moe/scores.parquet"
    run = snakemake(tmp_path, small_config, one)
    assert run.returncode == 0, run.stdout + run.stderr
    for ablation in ("profile_and_context", "profile_and_history"):
        for table in TABLES:
            assert (results / "untrained" / ablation / "tiny_qwen3_moe" / table).exists()
    log = (results / "logs/evaluate_untrained/tiny_qwen3_moe.log").read_text()
    assert "evaluation 2 of 2: untrained/profile_and_history/tiny_qwen3_moe" in log
    assert log.count(" loading ") == 1


def test_all_models_in_one_job_give_the_same_bytes_as_each_in_its_own(
    finished: Path, tmp_path: Path, small_config: dict[str, Any]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    evaluation = {**small_config["evaluation"], "together": True}
    run = snakemake(
        tmp_path, small_config | {"evaluation": evaluation}, "evaluate_all", "--forcerun", "evaluate_together"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "evaluate_together" in run.stdout + run.stderr
    files = [*finished.rglob("scores.parquet"), *finished.rglob("generations.parquet")]
    assert len(files) >= 8
    for file in files:
        assert (tmp_path / file.relative_to(finished)).read_bytes() == file.read_bytes(), file
    log = (tmp_path / "results/dmsc/logs/evaluate_together.log").read_text()
    assert log.count(" evaluation ") == 6
    assert log.count(" loading ") == 5


def test_one_process_scores_and_writes_as_two_do(finished: Path, tmp_path: Path, small_config: dict[str, Any]) -> None:
    results = finished / "results/dmsc"
    alone = evaluation(results, "two_per_user", tmp_path, max_tokens=700)
    start([*torchrun(1), str(EVALUATE), *arguments(results, small_config, [alone])])
    two = results / "evaluation/two_per_user/profile_and_history/tiny"
    scores, expected = pl.read_parquet(tmp_path / "scores.parquet"), pl.read_parquet(two / "scores.parquet")
    assert scores.drop("nll", "nll_impostors", "nll_empty", "stars").equals(
        expected.drop("nll", "nll_impostors", "nll_empty", "stars")
    )
    for column in ("nll", "nll_impostors", "nll_empty", "stars"):
        one, other = (table[column].explode().drop_nulls().to_numpy() for table in (scores, expected))
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert pl.read_parquet(tmp_path / "generations.parquet").equals(pl.read_parquet(two / "generations.parquet"))
