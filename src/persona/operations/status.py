"""The state of each training and the time it has left, read from its log. It works wherever the training runs."""

from __future__ import annotations

import json
import os
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from persona.operations.runs import Run, find_runs
from persona.training.logs import JSON_LOG
from persona.units import clock

TAIL_BYTES = 65_536
RECENT_STEPS = 50
FRESH_SECONDS = 600
COLUMNS = ["training", "state", "epoch", "step", "loss", "best val loss", "s/step", "left at most", "saved at"]


@dataclass(frozen=True)
class Progress:
    """The state of a training; a field is None if it is not in the log."""

    run: Run
    state: str
    epoch: int | None
    step: int
    total_steps: int | None
    loss: float | None
    best_val_loss: float | None
    best_epoch: int | None
    seconds_per_step: float | None
    saved_step: int

    @property
    def seconds_left(self) -> float | None:
        """Until the end of the last epoch, without validation. Early stopping may end the training before."""
        if self.seconds_per_step is None or self.total_steps is None or self.run.finished:
            return None
        return self.seconds_per_step * (self.total_steps - self.step)


def progress(run: Run) -> Progress:
    """Read the progress of a training from the end of its log."""
    steps = [record for record in _last_records(run.path / JSON_LOG) if record["type"] == "step"]
    last: dict[str, Any] = steps[-1] if steps else {}
    latest = run.path / "latest.json"
    saved = json.loads(latest.read_text(encoding="utf-8"))["state"] if latest.exists() else {}
    best = _best_validation(run.path / JSON_LOG)
    return Progress(
        run=run,
        state=_state(run),
        epoch=last.get("epoch"),
        step=last.get("step", 0),
        total_steps=last.get("total_steps"),
        loss=last.get("loss"),
        best_val_loss=best["val_loss"] if best else None,
        best_epoch=best["epoch"] if best else None,
        seconds_per_step=statistics.median(r["seconds"] for r in steps[-RECENT_STEPS:]) if steps else None,
        saved_step=saved.get("global_step", 0),
    )


def _best_validation(log: Path) -> dict[str, Any] | None:
    """The record of the best validation so far."""
    best = None
    if log.exists():
        with log.open(encoding="utf-8") as file:
            for line in file:
                if '"is_best": true' in line and line.endswith("\n"):
                    best = json.loads(line)
    return best


def _last_records(log: Path) -> list[dict[str, Any]]:
    """The records in the last `TAIL_BYTES` of a log, without incomplete lines."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        start = max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")
    records = []
    for line in lines[1 if start else 0 : -1]:
        with suppress(ValueError):
            records.append(json.loads(line))
    return records


def _state(run: Run) -> str:
    if run.finished:
        return "finished"
    if run.ended:
        return "stopped, see below" if run.last_word else "ended without a word"
    silent = run.seconds_silent()
    if silent == float("inf"):
        return "starting" if run.may_be_training else "not begun"
    runs = run.locked or silent < FRESH_SECONDS
    return f"running, {silent:.0f} s ago" if runs else f"silent for {clock(silent)}"


def status_table(results: Path) -> str:
    """One line per training below `results`, for a terminal."""
    runs = [run for run in find_runs(results) if not run.set_aside]
    if not runs:
        return f"no trainings in {results}"
    words = [f"{_name(run)}: {run.last_word}" for run in runs if run.ended and run.last_word and not run.finished]
    table = tabulate([COLUMNS, *(_row(progress(run)) for run in runs)], tablefmt="plain", disable_numparse=True)
    return "\n".join([table, *words])


def _name(run: Run) -> str:
    return f"{run.results.name}/{run.factors}/{run.path.name}"


def _row(p: Progress) -> list[str]:
    total = f"/{p.total_steps}" if p.total_steps else ""
    left = p.seconds_left
    return [
        _name(p.run),
        p.state,
        str(p.epoch or ""),
        f"{p.step}{total}",
        "" if p.loss is None else f"{p.loss:.4f}",
        "" if p.best_val_loss is None else f"{p.best_val_loss:.4f} (epoch {p.best_epoch})",
        "" if p.seconds_per_step is None else f"{p.seconds_per_step:.2f}",
        "" if left is None else clock(left),
        f"step {p.saved_step}" if p.saved_step else "",
    ]
