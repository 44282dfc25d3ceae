"""What `python -m persona` says of trainings and of the disk, from folders as trainings leave them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from persona.operations.runs import find_runs
from persona.operations.status import progress, status_table
from persona.operations.storage import delete, list_items, storage_table
from persona.training.checkpoints import LoopState
from persona.training.logs import TrainingLog
from persona.units import human_size

FACTORS = Path("two_per_user") / "profile_and_history" / "full"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def train_a_little(results: Path, version: str = "v1", steps: int = 30, finished: bool = False) -> Path:
    """The folder of a training of 100 steps after some of them, with a checkpoint of 1,000 bytes and a model of 500."""
    run = results / "dmsc" / "runs" / FACTORS / version
    run.mkdir(parents=True)
    log = TrainingLog(run, 100, 0, 0, {}, "run")
    for step in range(1, steps + 1):
        log.step({"epoch": 1 + step // 20, "step": step, "loss": 3.0 - step / 100, "lr": 1e-5, "grad_norm": 1.0,
                  "samples": 8, "tokens": 800, "loss_tokens": 80, "micro_steps": 1, "seconds": 20.0})  # fmt: skip
        if step == 19:
            log.validation({"epoch": 1, "step": step, "val_loss": 2.75, "is_best": True})
    log.close()
    (run / "checkpoints" / "step_20").mkdir(parents=True)
    (run / "checkpoints" / "step_20" / "state.pt").write_bytes(bytes(1000))
    (run / "checkpoints" / "zero_to_fp32.py").write_text("# DeepSpeed puts it there")
    (run / "best_epoch_1").mkdir()
    (run / "best_epoch_1" / "model.safetensors").write_bytes(bytes(500))
    state = LoopState(epoch=1, global_step=20, best_epoch=1, best_val_loss=2.75)
    (run / "latest.json").write_text(json.dumps({"tag": "step_20", "state": asdict(state)}))
    if finished:
        (run / "finished.json").write_text("{}")
    return run


def grow_old(run: Path) -> None:
    """As if all of it had been written three hours ago."""
    for file in [*run.rglob("*"), run]:
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 3 * 3600))


def test_a_running_training_says_how_far_it_is(results: Path) -> None:
    train_a_little(results)
    [run] = find_runs(results)
    p = progress(run)
    assert (p.epoch, p.step, p.total_steps, p.loss, p.best_val_loss, p.best_epoch) == (2, 30, 100, 2.7, 2.75, 1)
    assert p.seconds_left == 70 * 20.0
    line = status_table(results).splitlines()[1]
    assert line.startswith(f"dmsc/{FACTORS}/v1  running, ")
    assert line.endswith("2      30/100  2.7000  2.7500 (epoch 1)  20.00   0:23:20       step 20")


def test_a_line_that_is_just_being_written_is_not_read(results: Path) -> None:
    run = train_a_little(results)
    with (run / "train_log.jsonl").open("a") as log:
        log.write('{"type": "step", "ep')
    assert progress(find_runs(results)[0]).step == 30


def test_a_silent_training_and_a_finished_one_say_so(results: Path) -> None:
    run = train_a_little(results)
    grow_old(run)
    assert "  silent for 3:00:0" in status_table(results)
    (run / "finished.json").write_text("{}")
    assert "  finished  " in status_table(results)


def test_only_what_nothing_needs_is_deleted(results: Path) -> None:
    old, new = train_a_little(results, "v1", finished=True), train_a_little(results, "v2", finished=True)
    aside = train_a_little(results, "v1-0123456789ab")
    for run in (old, new, aside):
        grow_old(run)
    model = results / "dmsc" / "models" / FACTORS / "model"
    model.mkdir(parents=True)
    os.link(new / "best_epoch_1" / "model.safetensors", model / "model.safetensors")
    items = list_items(results)
    assert {item.of: item.goes for item in items if item.goes} == {
        f"dmsc/runs/{FACTORS}/v1": "old",
        f"dmsc/runs/{FACTORS}/v1-0123456789ab": "old",
        f"dmsc/runs/{FACTORS}/v2/checkpoints": "yes",
    }
    sizes = {item.of: item.size for item in items}
    assert sizes[f"dmsc/models/{FACTORS}"] == 500 and f"dmsc/runs/{FACTORS}/v2/best_epoch_1" not in sizes
    assert "dmsc/runs" in storage_table(items)
    assert delete(items, old=False).splitlines()[-1].endswith(" freed")
    assert old.exists() and aside.exists() and not (new / "checkpoints").exists()
    delete(list_items(results), old=True)
    assert not old.exists() and not aside.exists()
    assert (model / "model.safetensors").exists() and (new / "best_epoch_1" / "model.safetensors").exists()
    assert not [item for item in list_items(results) if item.goes]


def test_an_unfinished_training_keeps_what_it_goes_on_from(results: Path) -> None:
    run = train_a_little(results)
    half = run / "checkpoints" / "step_25"
    half.mkdir()
    (half / "state.pt").write_bytes(bytes(10))
    grow_old(run)
    delete(list_items(results), old=True)
    assert (run / "checkpoints" / "step_20").exists() and not half.exists()


def test_what_trains_now_is_left_alone(results: Path) -> None:
    lately, held = train_a_little(results, "v1"), train_a_little(results, "v2")
    grow_old(held)
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        items = list_items(results)
    assert not [item for item in items if item.goes]
    assert lately.exists()


def test_the_command_answers_in_one_line_where_nothing_is(tmp_path: Path) -> None:
    def persona(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "persona", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    missing = persona("status")
    assert missing.returncode == 1
    assert missing.stderr == (
        "error: results: no such folder; name the one that results_dir of the configuration names\n"
    )
    (tmp_path / "results").mkdir()
    assert persona("status").stdout == "nothing was trained in results\n"


def test_sizes_are_those_of_disks() -> None:
    sizes = [human_size(n) for n in (0, 999, 1500, 61e9, 370e9, 1.5e12)]
    assert sizes == ["0 B", "999 B", "1.5 kB", "61 GB", "370 GB", "1.5 TB"]
