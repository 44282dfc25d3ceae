"""A training that is killed goes on to exactly the end that it would have had."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from persona.errors import PersonaError
from persona.training.checkpoints import require_room
from tests.workflow.training import command, deepspeed_file, run, schedule, train

PLAN = schedule(800).model_copy(update={"max_epochs": 3, "checkpoint_every_steps": 1, "early_stopping_patience": 3})

Moment = Callable[[Path], bool]


def pointer(run_folder: Path) -> int:
    """The step that the newest complete checkpoint is of; 0 without one."""
    latest = run_folder / "latest.json"
    return int(json.loads(latest.read_text())["state"]["global_step"]) if latest.exists() else 0


def inside_a_save(run_folder: Path) -> bool:
    """A checkpoint newer than the pointer is being written (not left there by an earlier kill)."""
    files = (run_folder / "checkpoints").glob("step_*/*.pt")
    newer = [file for file in files if int(file.parent.name[5:]) > max(pointer(run_folder), 1)]
    return any(time.time() - file.stat().st_mtime < 0.5 for file in newer)


def in_training(run_folder: Path) -> bool:
    return (run_folder / "train_log.jsonl").exists()


def inside_an_export(run_folder: Path) -> bool:
    return any(run_folder.glob(".best_epoch_*.tmp"))


def between_export_and_save(run_folder: Path) -> bool:
    latest = run_folder / "latest.json"
    best = json.loads(latest.read_text())["state"]["best_epoch"] if latest.exists() else -1
    return any(int(path.name[11:]) > best for path in run_folder.glob("best_epoch_*"))


def before_the_export(run_folder: Path) -> bool:
    return (run_folder / "finished.json").exists()


def at_once(run_folder: Path) -> bool:
    return True


def soon(run_folder: Path) -> bool:
    time.sleep(4.0)
    return True


# In the order in which a training comes to them.
KILLS: list[tuple[str, Moment]] = [
    ("torchrun", at_once),
    ("rank 1", soon),
    ("torchrun", in_training),
    ("rank 1", inside_a_save),
    ("torchrun", inside_a_save),
    ("rank 0", inside_an_export),
    ("torchrun", between_export_and_save),
    ("rank 0", before_the_export),
]


def test_the_rest_is_bit_for_bit_that_of_an_uninterrupted_training(folder: Path, tmp_path: Path) -> None:
    file = deepspeed_file(tmp_path, 3)
    whole = train(command(folder, "whole", 2, PLAN, file))
    interrupted = command(folder, "killed", 2, PLAN, file)
    for victim, moment in KILLS:
        kill_at(interrupted, folder / "killed" / "run", victim, moment)
    resumed = train(interrupted)
    assert [timeless(record) for record in resumed] == [timeless(record) for record in whole]
    weights = [folder / name / "model" / "model.safetensors" for name in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (folder / "killed" / "run" / "checkpoints").exists()


def timeless(record: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in record.items() if key != "seconds"}


def kill_at(arguments: list[str], run_folder: Path, victim: str, moment: Moment) -> None:
    """Start a training, SIGKILL one of its processes at a moment, and wait until no process of it is left."""
    process = psutil.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ranks = wait_until(lambda: ranks_of(process), process)
    victims = {"torchrun": process} | {f"rank {n}": rank for n, rank in enumerate(ranks)}
    wait_until(lambda: moment(run_folder), process)
    victims[victim].send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive


def ranks_of(process: psutil.Popen) -> list[psutil.Process]:
    """The two ranks that torchrun started, in order; empty before both are there."""
    # Before its exec a child has torchrun's own command line.
    children = [child for child in process.children() if "torch.distributed.run" not in child.cmdline()]
    ranks = [child for child in children if any(word.endswith("train.py") for word in child.cmdline())]
    return sorted(ranks, key=lambda child: child.environ()["RANK"]) if len(ranks) == 2 else []


def wait_until(happened: Callable[[], Any], process: psutil.Popen) -> Any:
    deadline = time.monotonic() + 120
    while not (result := happened()):
        assert process.poll() is None and time.monotonic() < deadline
    return result


def test_another_number_of_processes_is_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    file = deepspeed_file(tmp_path, 3)
    kill_at(
        command(folder, "ranks", 2, PLAN, file), folder / "ranks" / "run", "torchrun", lambda path: pointer(path) > 0
    )
    finished = run(command(folder, "ranks", 1, PLAN, file))
    assert finished.returncode != 0
    assert "holds an unfinished training of something else (processes: was 2, is 1). Undo the change" in finished.stderr


def test_a_full_disk_is_told_before_the_save(tmp_path: Path) -> None:
    require_room(tmp_path, 1)
    with pytest.raises(PersonaError, match=r"a checkpoint needs 1,000\.0 TB and .* GB are free; make room"):
        require_room(tmp_path, 10**15)
