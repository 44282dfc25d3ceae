"""One training from files to files: start or resume, run, hand over the model, the log and the manifest."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist

from persona import artefacts
from persona.modeling.packing import TokenTable
from persona.tokenization import load_tokenizer
from persona.training.checkpoints import LoopState, RunFolder, link_tree
from persona.training.engine import Optimization, build_engine, start_distributed
from persona.training.logs import JSON_LOG, TrainingLog
from persona.training.loop import Schedule, Training

PACKAGES = ["torch", "transformers", "deepspeed", "numpy", "polars", "pyarrow"]
LARGE_FILE = 64 << 20


@dataclass(frozen=True)
class Files:
    """What a training reads and writes."""

    train_tokens: Path
    val_tokens: Path
    base_model: str
    deepspeed: Path
    run_folder: Path
    model: Path
    train_log: Path
    manifest: Path


def train(files: Files, optimization: Optimization, schedule: Schedule, wandb: dict[str, str] | None) -> None:
    """Train, or go on, or hand over what is already trained. Every rank calls it."""
    start_distributed()
    folder = RunFolder(files.run_folder)
    fingerprint = _fingerprint(files, optimization, schedule)
    if dist.get_rank() == 0:
        folder.claim(fingerprint)
    dist.barrier()
    if not folder.finished:
        _train(files, optimization, schedule, folder, wandb)
    if dist.get_rank() == 0:
        _hand_over(files, folder, fingerprint)
    dist.barrier()
    dist.destroy_process_group()


def _train(
    files: Files, optimization: Optimization, schedule: Schedule, folder: RunFolder, wandb: dict[str, str] | None
) -> None:
    tables = [
        TokenTable.from_frame(artefacts.read_table(path, artefacts.TOKENS))
        for path in (files.train_tokens, files.val_tokens)
    ]
    total_steps = schedule.steps_per_epoch(len(tables[0])) * schedule.max_epochs
    engine = build_engine(files.base_model, files.deepspeed, optimization, total_steps)
    state = folder.load(engine)
    log = None
    if dist.get_rank() == 0:
        log = TrainingLog(folder.path, total_steps, state.global_step, wandb)
        log.message(_greeting(tables[0], tables[1], schedule, state))
    training = Training(engine, load_tokenizer(files.base_model), tables[0], tables[1], schedule, folder, log)
    state = training.run(state)
    if log is not None:
        log.message(f"finished after {state.epoch} epochs, best epoch {state.best_epoch}")
        log.close()
        folder.finish({**asdict(state), "train_samples": len(tables[0]), "val_samples": len(tables[1])})
    dist.barrier()


def _greeting(train: TokenTable, val: TokenTable, schedule: Schedule, state: LoopState) -> str:
    going_on = f", going on after step {state.global_step}" if state.started else ""
    return (
        f"{len(train):,} training samples "
        f"({train.lengths.sum():,} tokens, {train.completion_lengths.sum():,} with loss), "
        f"{len(val):,} validation samples; {schedule.samples_per_step} samples a step, "
        f"{schedule.steps_per_epoch(len(train))} steps an epoch, at most {schedule.max_epochs} epochs, "
        f"{dist.get_world_size()} processes{going_on}"
    )


def _fingerprint(files: Files, optimization: Optimization, schedule: Schedule) -> dict[str, Any]:
    """All that the result is a function of, flat, so that a difference can be named."""
    return {
        **asdict(optimization),
        **asdict(schedule),
        "processes": dist.get_world_size(),
        "train_tokens": artefacts.file_digest(files.train_tokens),
        "val_tokens": artefacts.file_digest(files.val_tokens),
        "deepspeed": artefacts.file_digest(files.deepspeed),
        "base_model": _model_identity(files.base_model),
    }


def _model_identity(path: str) -> str:
    """A digest of a model folder; of weight files above 64 MiB only names and sizes. A hub id is itself."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        size = file.stat().st_size
        content = artefacts.file_digest(file) if size <= LARGE_FILE else str(size)
        digest.update(f"{file.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def _hand_over(files: Files, folder: RunFolder, fingerprint: dict[str, Any]) -> None:
    """Write the outputs, the model last."""
    summary = folder.summary()
    files.train_log.parent.mkdir(parents=True, exist_ok=True)
    with artefacts.atomic_path(files.train_log) as temporary:
        shutil.copyfile(folder.path / JSON_LOG, temporary)
    artefacts.write_json(
        {
            "parameters": fingerprint,
            "counts": summary,
            "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "hardware": _hardware(),
        },
        files.manifest,
    )
    link_tree(folder.best, files.model)


def _hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{dist.get_world_size()} x {torch.cuda.get_device_name()}"
    return f"{dist.get_world_size()} CPU processes, {os.cpu_count()} cores"
