"""The training command as the workflow starts it, on a tiny model and few tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from persona.training.logs import read_log
from persona.training.settings import Optimization, Schedule

ROOT = Path(__file__).parents[2]
LEARNING_RATE = 1e-3
MAX_NORM = 1.0

OPTIMIZATION = Optimization(
    learning_rate=LEARNING_RATE,
    lr_scheduler_type="constant_with_warmup",
    warmup_ratio=0.0,
    weight_decay=0.1,
    max_grad_norm=MAX_NORM,
    gradient_checkpointing=False,
)


def schedule(max_tokens: int, **changes: Any) -> Schedule:
    """One epoch of three steps."""
    plan = Schedule(
        samples_per_step=8,
        max_tokens_per_gpu=max_tokens,
        max_epochs=1,
        early_stopping_patience=1,
        early_stopping_threshold=0.0,
        checkpoint_every_steps=None,
        seed=3,
        batch_by="user",
        prefix_sharing=True,
    )
    return plan.model_copy(update=changes)


def deepspeed_file(folder: Path, stage: int) -> Path:
    """A DeepSpeed configuration under which even a tiny model is partitioned."""
    file = folder / f"zero{stage}.json"
    options: dict[str, Any] = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
    if stage == 3:
        options["stage3_param_persistence_threshold"] = 0
    file.write_text(json.dumps({"zero_optimization": options}))
    return file


def command(
    folder: Path,
    name: str,
    ranks: int,
    plan: Schedule,
    deepspeed: Path,
    optimization: Optimization = OPTIMIZATION,
    base: str = "base",
    export: dict[str, bool] | None = None,
    gpus: int = 0,
) -> list[str]:
    """The command that trains on the tokens of `folder`; its outputs are in `folder / name`."""
    out = folder / name
    arguments = {
        "train-tokens": folder / "tokens.parquet",
        "val-tokens": folder / "tokens.parquet",
        "deepspeed": deepspeed,
        "run-folder": out / "run",
        "model": out / "model",
        "train-log": out / "log.jsonl",
        "manifest": out / "manifest.json",
        "base-model": folder / base,
        "gpus": gpus,
        "optimization": optimization.model_dump_json(),
        "schedule": plan.model_dump_json(),
        "export": json.dumps({"merge_adapter": False, "keep_training_state": False} | (export or {})),
        "factors": "{}",
    }
    options = [text for key, value in arguments.items() for text in (f"--{key}", str(value))]
    return [*torchrun(ranks), str(ROOT / "workflow" / "scripts" / "train.py"), *options]


def torchrun(ranks: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def train(command: list[str]) -> list[dict[str, Any]]:
    """Run a training to its end; the records of its log."""
    finished = run(command)
    assert finished.returncode == 0, finished.stderr
    log = Path(command[command.index("--train-log") + 1])
    return read_log(log)


def steps(records: list[dict[str, Any]], key: str) -> list[float]:
    return [record[key] for record in records if record["type"] == "step"]
