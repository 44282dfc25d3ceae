"""The training command as the workflow starts it, on a tiny model and few tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from persona.training.logs import read_log
from persona.training.settings import Optimization, Schedule
from tests.workflow.several import output_of

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "workflow" / "scripts" / "train.py"
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


def arguments(
    folder: Path,
    name: str,
    plan: Schedule,
    deepspeed: Path,
    optimization: Optimization = OPTIMIZATION,
    base: str = "base",
    export: dict[str, bool] | None = None,
    gpus: int = 0,
) -> list[str]:
    """The script that trains on the tokens of `folder`, and its arguments; its outputs are in `folder / name`."""
    out = folder / name
    options = {
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
    return [str(TRAIN), *(text for key, value in options.items() for text in (f"--{key}", str(value)))]


def gradients(
    folder: Path, name: str, stage: int, lengths: list[int], optimization: Optimization, base: str = "base"
) -> list[str]:
    """The script that writes the gradients of a step, whose rows have these lengths, to a file of `folder`."""
    # At this rate a step changes nothing.
    still = optimization.model_copy(update={"learning_rate": 1e-30})
    return [
        str(Path(__file__).with_name("gradients.py")), str(folder), str(deepspeed_file(folder, stage)),
        still.model_dump_json(), json.dumps(lengths), str(folder / name), base,
    ]  # fmt: skip


def command(folder: Path, name: str, ranks: int, plan: Schedule, deepspeed: Path, **others: Any) -> list[str]:
    """The command that trains with these arguments on a number of ranks."""
    return [*torchrun(ranks), *arguments(folder, name, plan, deepspeed, **others)]


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


def run_several(ranks: int, commands: dict[str, list[str]], file: Path) -> dict[str, str]:
    """Run several commands of a script and its arguments in one launch, in this order.

    Returns: what each printed to stderr, with "exit status N" as its last line.
    """
    file.write_text(json.dumps(list(commands.values())))
    finished = run([*torchrun(ranks), "-m", "tests.workflow.several", str(file)])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return {name: output_of(file, n).read_text() for n, name in enumerate(commands)}


def steps(records: list[dict[str, Any]], key: str) -> list[float]:
    return [record[key] for record in records if record["type"] == "step"]
