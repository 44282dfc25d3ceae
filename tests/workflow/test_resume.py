"""A training that is killed goes on to exactly the end that it would have had."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
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
from persona.training.logs import read_log
from tests.workflow.conftest import on_a_small_disk
from tests.workflow.training import TRAIN, command, deepspeed_file, run, schedule, train

# Two validations in each epoch of three steps.
PLAN = schedule(800, max_epochs=8, checkpoint_every_steps=1, validate_every_steps=2, early_stopping_patience=16)

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


def after_an_unsaved_validation(run_folder: Path) -> bool:
    """A better validation was logged, and no checkpoint holds its weights yet."""
    log = run_folder / "train_log.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    best = [json.loads(line)["step"] for line in lines if '"is_best": true' in line]
    return bool(best) and best[-1] > max(pointer(run_folder), 1)


def before_the_outputs(run_folder: Path) -> bool:
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
    ("torchrun", after_an_unsaved_validation),
    ("rank 0", inside_an_export),
    ("rank 0", before_the_outputs),
]


SOME_KILLS = [KILLS[3], KILLS[6]]  # while the thread writes a checkpoint, and in the export
N_RANDOM_KILLS = 20


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[dict[str, Any]]:
    """The log of an uninterrupted training."""
    return train(command(folder, "whole", 2, PLAN, deepspeed_file(folder, 3)))


@pytest.fixture(scope="module")
def killed(folder: Path) -> Path:
    """The run folder of a training that was killed twice and is not finished."""
    for victim, moment in SOME_KILLS:
        kill_at(command(folder, "killed", 2, PLAN, deepspeed_file(folder, 3)), folder / "killed/run", victim, moment)
    return folder / "killed" / "run"


def test_validations_are_within_epochs_and_at_their_ends(whole: list[dict[str, Any]]) -> None:
    assert [r["step"] for r in whole if r["type"] == "val"] == sorted([*range(2, 24, 3), *range(3, 25, 3)])


def test_another_number_of_processes_is_refused_with_what_to_do(folder: Path, killed: Path) -> None:
    shutil.copytree(killed, folder / "ranks" / "run")
    finished = run(command(folder, "ranks", 1, PLAN, deepspeed_file(folder, 3)))
    assert finished.returncode != 0
    assert "holds an unfinished training of something else (processes: was 2, is 1). Undo the change" in finished.stderr


def test_the_rest_is_bit_for_bit_that_of_an_uninterrupted_training(
    folder: Path, whole: list[dict[str, Any]], killed: Path
) -> None:
    comes_to_the_same_end(folder, "killed", whole)


@pytest.mark.long
def test_the_rest_is_the_same_where_every_process_has_all_weights(folder: Path) -> None:
    """Below ZeRO-3 the first process alone keeps the best weights."""
    file = deepspeed_file(folder, 2)
    whole_2 = train(command(folder, "whole_2", 2, PLAN, file))
    interrupted = command(folder, "killed_2", 2, PLAN, file)
    kill_at(interrupted, folder / "killed_2" / "run", "torchrun", after_an_unsaved_validation)
    resumed = train(interrupted)
    assert [timeless(record) for record in resumed] == [timeless(record) for record in whole_2]
    weights = [folder / of / "model" / "model.safetensors" for of in ("whole_2", "killed_2")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.long
def test_the_rest_is_the_same_wherever_it_is_killed(folder: Path, whole: list[dict[str, Any]]) -> None:
    interrupted = command(folder, "killed_often", 2, PLAN, deepspeed_file(folder, 3))
    for victim, moment in KILLS:
        kill_at(interrupted, folder / "killed_often" / "run", victim, moment)
    comes_to_the_same_end(folder, "killed_often", whole)


@pytest.mark.long
def test_the_rest_is_the_same_whenever_it_is_killed(folder: Path, whole: list[dict[str, Any]]) -> None:
    """At random times; after a training that came to its end sooner, another one starts."""
    seed = time.time_ns()
    print("seed", seed)  # shown if the test fails
    rng = random.Random(seed)
    n = 0
    for _ in range(N_RANDOM_KILLS):
        name = f"killed_at_random_{n}"
        training = command(folder, name, 2, PLAN, deepspeed_file(folder, 3))
        if not kill_after(training, rng.uniform(0, 20), rng.choice(["torchrun", "rank 0", "rank 1"])):
            comes_to_the_same_end(folder, name, whole)
            n += 1
    comes_to_the_same_end(folder, name, whole)


def kill_after(arguments: list[str], seconds: float, victim: str) -> bool:
    """SIGKILL a process of a training some time after its ranks are there; whether it still trained by then."""
    process = psutil.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ranks = wait_until(lambda: ranks_of(process), process)
    with contextlib.suppress(psutil.TimeoutExpired):
        process.wait(timeout=seconds)
        return False
    ({"torchrun": process, "rank 0": ranks[0], "rank 1": ranks[1]}[victim]).kill()
    process.wait(timeout=60)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive
    return True


def comes_to_the_same_end(folder: Path, name: str, whole: list[dict[str, Any]]) -> None:
    """Go on with a training that was killed: its log and its weights are those of the uninterrupted one."""
    resumed = train(command(folder, name, 2, PLAN, deepspeed_file(folder, 3)))
    assert [timeless(record) for record in resumed] == [timeless(record) for record in whole]
    weights = [folder / of / "model" / "model.safetensors" for of in ("whole", name)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (folder / name / "run" / "checkpoints").exists()


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
        time.sleep(0.002)
    return result


def test_told_to_stop_it_saves_and_goes_on(folder: Path, whole: list[dict[str, Any]]) -> None:
    """As a cluster tells it before the time is up."""
    # Only the signal saves.
    told = command(
        folder, "told", 2, PLAN.model_copy(update={"checkpoint_every_steps": None}), deepspeed_file(folder, 3)
    )
    process = psutil.Popen(told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = folder / "told" / "run" / "train_log.jsonl"
    wait_until(lambda: log.exists() and log.read_text().count('"step"') > 3, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    done = read_log(log)[-1]["step"]
    assert f"error: told to stop (SIGTERM): saved after step {done}; start again to go on" in errors
    assert json.loads((folder / "told" / "run" / "latest.json").read_text())["state"]["global_step"] == done
    text = (folder / "told" / "run" / "training_logs" / "detailed_training_log.txt").read_text()
    assert text.count("checkpoint after step") == 1, "saved before it was due, or twice"
    resumed = train(told)
    assert [r.get("loss", r.get("val_loss")) for r in resumed] == [r.get("loss", r.get("val_loss")) for r in whole]


def test_a_full_disk_is_told_before_the_save(tmp_path: Path) -> None:
    require_room(tmp_path, 1, "a checkpoint")
    with pytest.raises(PersonaError, match=r"a checkpoint needs 1,000\.0 TB and .* GB are free; make room"):
        require_room(tmp_path, 10**15, "a checkpoint")


def test_a_disk_that_is_full_within_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    """Something else takes the room after it was looked at: the newest whole checkpoint stays, and the rest comes."""
    for name in ("base", "tokens.parquet"):
        (tmp_path / name).symlink_to(folder / name)
    plan = schedule(800, checkpoint_every_steps=1)
    file = deepspeed_file(tmp_path, 3)
    whole = train(command(tmp_path, "whole", 1, plan, file))
    starts = command(tmp_path, "cut", 1, plan, file)
    filling = [word.replace(str(TRAIN), str(Path(__file__).with_name("train_as_the_disk_fills.py"))) for word in starts]
    first, second = (" ".join(map(repr, words)) for words in (filling, starts))
    done = on_a_small_disk(
        tmp_path / "cut",
        "100m",
        f"{first}; echo first $?; cat cut/run/latest.json; rm cut/filled; {second}; echo second $?; "
        "cp cut/log.jsonl kept.jsonl",
    )
    assert "first 1" in done.stdout and "second 0" in done.stdout, done.stdout + done.stderr
    assert '"tag": "step_1"' in done.stdout
    assert "the disk or the quota became full; make room and start again" in done.stderr
    steps = [[record["loss"] for record in records if record["type"] == "step"]
             for records in (whole, read_log(tmp_path / "kept.jsonl"))]  # fmt: skip
    assert len(steps[0]) == 3 and steps[0] == steps[1]
