"""The logs of a training that is killed and resumed are those of one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persona.training.logs import JSON_LOG, TEXT_LOG, TrainingLog, read_log


def step(number: int, epoch: int) -> dict[str, Any]:
    record = {"epoch": epoch, "step": number, "loss": 2.0, "lr": 1e-3, "grad_norm": 0.5, "samples": 4, "tokens": 80}
    return record | {"micro_steps": 1, "seconds": 0.5}


def validation(number: int, epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": number, "val_loss": 1.5, "is_best": True}


def log(folder: Path, step: int = 0, val: int = 0) -> TrainingLog:
    return TrainingLog(folder, 4, {"step": step, "val": val}, {"recipe": "tiny"}, "run")


def test_each_step_is_a_record_and_a_line(tmp_path: Path) -> None:
    first = log(tmp_path)
    first.message("4 training samples")
    first.step(step(1, 1))
    first.validation(validation(1, 1))
    first.close()
    records = read_log(tmp_path / JSON_LOG)
    assert records == [{"type": "step", **step(1, 1), "total_steps": 4}, {"type": "val", **validation(1, 1)}]
    lines = (tmp_path / TEXT_LOG).read_text().splitlines()
    assert lines[0] == "4 training samples"
    assert lines[1].startswith("epoch   1 step      1/4 loss 2.0000 lr 1.00e-03 grad_norm 0.500 160 tokens/s")
    assert lines[1].endswith("1 micro-steps, all steps in 0:00:02")
    assert lines[2] == "epoch   1 val_loss 1.5000 after step 1 (best so far)"


def test_records_after_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    killed = log(tmp_path)
    for record in (step(1, 1), step(2, 1)):
        killed.step(record)
    killed.validation(validation(2, 1))
    killed.step(step(3, 2))
    killed.close()
    with (tmp_path / JSON_LOG).open("a") as file:
        file.write('{"type": "step", "ep')  # killed while it wrote
    log(tmp_path, step=2).close()
    assert [(record["type"], record["step"]) for record in read_log(tmp_path / JSON_LOG)] == [("step", 1), ("step", 2)]
