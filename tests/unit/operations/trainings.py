"""Folders as trainings leave them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from persona.training.checkpoints import LoopState
from persona.training.logs import TrainingLog

FACTORS = Path("two_per_user") / "profile_and_history" / "full"


def train_a_little(results: Path, version: str = "v1", steps: int = 30, finished: bool = False) -> Path:
    """The folder of a training of 100 steps after some of them, with a checkpoint of 1,000 bytes and a model of 500."""
    run = results / "dmsc" / "runs" / FACTORS / version
    run.mkdir(parents=True)
    log = TrainingLog(run, 100, {"step": 0, "val": 0}, {}, "run")
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
