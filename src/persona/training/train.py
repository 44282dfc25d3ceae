"""One training from files to files: start or resume, run, write the model, the log and the manifest."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist

from persona.files import atomic_path, file_digest, write_json
from persona.modeling.experts import empty_experts_get_no_gradient
from persona.modeling.loading import hub_commit
from persona.modeling.packing import TokenTable
from persona.modeling.processes import process_group, seconds_since_launch
from persona.tokenization.chat import load_tokenizer
from persona.training.checkpoints import LoopState, RunFolder, digest, full_disk_explained, link_tree
from persona.training.engine import build_engine, check_likelihoods, sharing_explained
from persona.training.export import export_bytes, export_model, merge_adapter
from persona.training.logs import JSON_LOG, TrainingLog
from persona.training.loop import Training, explain_errors
from persona.training.saving import BestWeights, CheckpointWriter
from persona.training.settings import EXECUTION_ONLY, ExportSettings, Optimization, Schedule
from persona.training.stopping import StopRequest

PACKAGES = ["torch", "transformers", "deepspeed", "peft", "numpy", "polars", "pyarrow"]


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


def train(
    files: Files,
    optimization: Optimization,
    schedule: Schedule,
    export: ExportSettings,
    factors: dict[str, str],
    stop: StopRequest | None = None,
) -> None:
    """Train, or resume, or export a training that is finished already.

    Every rank of the process group calls it; without a process group it trains in this process only.

    Args:
        factors: names for the run in experiment trackers, which `tracking.run_name` may use.
        stop: the signals on which the training saves and stops; by default none.

    Raises:
        PersonaError: the run folder belongs to another training, the model or the settings do not work, the loss is
            not finite, the disk is full, or `stop` received a signal.
    """
    with process_group(), closing(RunFolder(files.run_folder)) as folder, folder.leaving_word():
        fingerprint: dict[str, Any] = {}
        if dist.get_rank() == 0:
            fingerprint = _fingerprint(files, optimization, schedule)
            folder.claim(fingerprint)
        dist.barrier()
        if not folder.finished:
            stop = stop or StopRequest(signals=())
            run = digest(fingerprint)
            _train(files, optimization, schedule, folder, factors, run, stop, export.keep_training_state)
        if dist.get_rank() == 0:
            write_outputs(files, folder, fingerprint, export)
        dist.barrier()


def _train(
    files: Files,
    optimization: Optimization,
    schedule: Schedule,
    folder: RunFolder,
    factors: dict[str, str],
    run: str,
    stop: StopRequest,
    keep_training_state: bool,
) -> None:
    tables = [TokenTable.read(path) for path in (files.train_tokens, files.val_tokens)]
    epoch_steps = schedule.steps_per_epoch(len(tables[0]))
    engine = build_engine(
        files.base_model,
        files.deepspeed,
        optimization,
        epoch_steps,
        schedule.max_epochs,
        schedule.prefix_sharing,
        schedule.seed,
    )
    with explain_errors("before the first step", schedule.max_tokens_per_gpu):
        check_likelihoods(engine, tables[0], schedule, files.base_model)
    writer, best = CheckpointWriter(engine), BestWeights()
    state = folder.load(engine, best)
    loading_seconds = seconds_since_launch()
    log = None
    if dist.get_rank() == 0:
        log = TrainingLog(folder.path, epoch_steps * schedule.max_epochs, state.done, factors, run)
        log.message(_summary(tables[0], tables[1], schedule, state, optimization))
        if engine.device.type == "cuda" and not empty_experts_get_no_gradient(engine.device):
            log.message(
                "warning: this torch gives experts without tokens a wrong gradient on this GPU "
                "(https://github.com/pytorch/pytorch/issues/172439); take another version of torch"
            )
    training = Training(engine, tables[0], tables[1], schedule, folder, writer, best, log, stop)
    state = training.run(state)
    folder.conclude(writer)
    if keep_training_state:
        folder.save(engine, writer, best, state)
        folder.conclude(writer)
    started = time.perf_counter()
    folder.check_room(export_bytes(engine.module), "the trained model")
    best.restore(engine.module)
    with full_disk_explained(folder.path):
        export_model(engine, load_tokenizer(files.base_model), folder.best(state.best_epoch))
    if log is not None:
        log.message(f"finished after {state.epoch} epochs, best epoch {state.best_epoch}")
        log.close()
        seconds = {"loading_seconds": loading_seconds, "export_seconds": time.perf_counter() - started}
        samples = {"train_samples": len(tables[0]), "val_samples": len(tables[1])}
        folder.finish({**asdict(state), **seconds, **samples})
    dist.barrier()


def _summary(
    train: TokenTable, val: TokenTable, schedule: Schedule, state: LoopState, optimization: Optimization
) -> str:
    resumed = f", going on after step {state.global_step}" if state.started else ""
    return (
        f"{len(train):,} training samples "
        f"({train.lengths.sum():,} tokens, {train.completion_lengths.sum():,} with loss), "
        f"{len(val):,} validation samples; {schedule.samples_per_step} samples per step, chosen by "
        f"{schedule.batch_by}, {schedule.steps_per_epoch(len(train))} steps per epoch, at most {schedule.max_epochs} "
        "epochs, "
        f"{dist.get_world_size()} processes, {sharing_explained(schedule.prefix_sharing, optimization.lora)}{resumed}"
    )


def _fingerprint(files: Files, optimization: Optimization, schedule: Schedule) -> dict[str, Any]:
    """Everything that determines the result, without nesting, so that a difference can be named."""
    settings = {**optimization.model_dump(), **schedule.model_dump()}
    base = Path(files.base_model)
    return {
        **{name: value for name, value in settings.items() if name not in EXECUTION_ONLY},
        "processes": dist.get_world_size(),
        "train_tokens": file_digest(files.train_tokens),
        "val_tokens": file_digest(files.val_tokens),
        "deepspeed": file_digest(files.deepspeed),
        "base_model": file_digest(base) if base.is_dir() else hub_commit(files.base_model),
    }


def write_outputs(files: Files, folder: RunFolder, fingerprint: dict[str, Any], settings: ExportSettings) -> None:
    """Write the log, the manifest and, last, the model of a finished training."""
    summary = folder.summary()
    files.train_log.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(files.train_log) as temporary:
        shutil.copyfile(folder.path / JSON_LOG, temporary)
    write_json(
        {
            "parameters": fingerprint,
            "counts": summary,
            "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "hardware": _hardware(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
        },
        files.manifest,
    )
    best = folder.best(summary["best_epoch"])
    if settings.merge_adapter:
        merge_adapter(files.base_model, best, files.model, fingerprint["cpu_dtype"])
    else:
        link_tree(best, files.model)
    if not settings.keep_training_state:
        folder.discard_state()


def _commit() -> str | None:
    """The commit of this code, with `-dirty` if files were changed since; None if it is not in a git repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{dist.get_world_size()} x {torch.cuda.get_device_name()}"
    return f"{dist.get_world_size()} CPU processes, {os.cpu_count()} cores"
