"""The logs of a training: per step a JSON line and a readable line, experiment trackers, a progress bar."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from persona.files import write_text
from persona.progress import progress_bar
from persona.training.loggers import Logger, start_loggers
from persona.units import clock

JSON_LOG = "train_log.jsonl"
ENDED = "ended.json"  # why a training stopped before its end; not there while it runs
TEXT_LOG = Path("training_logs") / "detailed_training_log.txt"

Record = Mapping[str, Any]


class TrainingLog:
    """Writes the logs of one training into its run folder. Only rank 0 has one."""

    def __init__(
        self, folder: Path, total_steps: int, done: Mapping[str, int], factors: Mapping[str, str], run: str
    ) -> None:
        """`done`: for each type of record the step of the last one that the training does not do again."""
        (folder / TEXT_LOG).parent.mkdir(parents=True, exist_ok=True)
        _drop_records_after(folder / JSON_LOG, done)
        self._json = (folder / JSON_LOG).open("a", encoding="utf-8")
        self._text = (folder / TEXT_LOG).open("a", encoding="utf-8")
        self._total = total_steps
        name = "/".join(factors[key] for key in ("sample", "ablation", "recipe") if key in factors)
        self._bar = progress_bar(total_steps, done["step"], f"training {name}".strip(), "step")
        self._recent: deque[float] = deque(maxlen=50)
        self._loggers = start_loggers(folder, factors, run, done["step"] + 1)

    def message(self, text: str) -> None:
        """Add a line to the readable log."""
        print(text, file=self._text, flush=True)

    def step(self, record: Record) -> None:
        """Log an optimizer step."""
        self._write("step", {**record, "total_steps": self._total})
        self._recent.append(record["seconds"])
        remaining = sum(self._recent) / len(self._recent) * (self._total - record["step"])
        self.message(
            f"epoch {record['epoch']:>3} step {record['step']:>6}/{self._total} loss {record['loss']:.4f} "
            f"lr {record['lr']:.2e} grad_norm {record['grad_norm']:.3f} "
            f"{record['tokens'] / record['seconds']:,.0f} tokens/s "
            f"{record['samples'] / record['seconds']:,.1f} samples/s "
            f"{record['seconds']:.2f} s/step {record['micro_steps']} micro-steps, all steps in {clock(remaining)}"
        )
        self._bar.set_postfix(loss=f"{record['loss']:.3f}", epoch=record["epoch"])
        self._bar.update()

    def validation(self, record: Record) -> None:
        """Log a pass over the validation targets."""
        self._write("val", record)
        best = " (best so far)" if record["is_best"] else ""
        self.message(f"epoch {record['epoch']:>3} val_loss {record['val_loss']:.4f} after step {record['step']}{best}")

    def close(self) -> None:
        """Close the trackers, the files and the progress bar."""
        self._bar.close()
        for name in list(self._loggers):
            self._try(name, lambda logger: logger.close())
        self._json.close()
        self._text.close()

    def _write(self, kind: str, record: Record) -> None:
        print(json.dumps({"type": kind, **record}), file=self._json, flush=True)
        prefix = "val" if kind == "val" else "train"
        values = {f"{prefix}/{name}": value for name, value in record.items() if name != "step"}
        for name in list(self._loggers):
            self._try(name, lambda logger: logger.log(values, record["step"]))

    def _try(self, name: str, call: Callable[[Logger], None]) -> None:
        """Call a tracker. One that fails, such as for want of a network, gets nothing more; the training goes on."""
        try:
            call(self._loggers[name])
        except Exception as error:  # of any library
            del self._loggers[name]
            self.message(f"{name} gets nothing more: {type(error).__name__}: {' '.join(str(error).split())}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a `train_log.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _drop_records_after(path: Path, done: Mapping[str, int]) -> None:
    """Delete the records that a killed training wrote after its last checkpoint; that work is done again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = [(line, json.loads(line)) for line in lines if line.endswith("\n")]
    write_text("".join(line for line, record in complete if record["step"] <= done[record["type"]]), path)
