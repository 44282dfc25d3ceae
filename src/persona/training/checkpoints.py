"""Training state on disk: what a killed training resumes from, and the best model.

A run folder holds

    fingerprint.json   everything that determines the result; a training with another fingerprint is refused
    latest.json        tag of the newest complete checkpoint, and the state of the loop
    checkpoints/       DeepSpeed checkpoints, each with the best weights so far; only the newest is kept
    best_epoch_N/      the best model, an ordinary Hugging Face folder; written when the training is over
    finished.json      written last
    ended.json         why a training stopped before its end; deleted when it goes on
    lock               held by the process that trains in this folder; holds the name of its machine
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import nn

from persona.errors import NO_ROOM, PersonaError
from persona.files import sync_folder, write_json
from persona.modeling.expert_parallel import parts
from persona.training.logs import ENDED, JSON_LOG
from persona.training.saving import BestWeights, CheckpointWriter, fits_in_host_memory
from persona.training.stopping import any_rank
from persona.units import human_size

FULL = 1 << 20  # bytes
# Settings that older versions did not have, and what all their trainings did.
LATER_SETTINGS = {"cpu_dtype": "float32", "expert_parallel": 1}


@dataclass
class LoopState:
    """Position of the loop. Together with the seed it determines everything that follows."""

    epoch: int = 0
    step_in_epoch: int = 0
    global_step: int = 0
    validated_step: int = 0  # the step that the last validation was after
    best_val_loss: float = float("inf")
    best_epoch: int = -1
    best_step: int = -1
    bad_validations: int = 0
    seconds: float = 0.0  # of steps
    validation_seconds: float = 0.0
    saving_seconds: float = 0.0  # that the training waited for checkpoints
    tokens: int = 0

    @property
    def done(self) -> dict[str, int]:
        """For each type of log record the step of the last one of this training so far."""
        return {"step": self.global_step, "val": self.validated_step}

    @property
    def started(self) -> bool:
        """Whether a step was made."""
        return self.global_step > 0


class RunFolder:
    """The folder of one training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._latest = path / "latest.json"
        self._finished = path / "finished.json"
        self._being_written: dict[str, Any] | None = None  # the next content of `latest.json`
        self._lock: IO[str] | None = None

    def best(self, epoch: int) -> Path:
        """Folder that the model of an epoch is exported to."""
        return self.path / f"best_epoch_{epoch}"

    def claim(self, fingerprint: dict[str, Any]) -> None:
        """Lock the folder for this training, until `close`.

        A finished training of other data or parameters is renamed, with its digest in the name, and used again when
        the change is undone. An unfinished one is renamed only when the requested training was renamed before. One that
        made no step is replaced.

        Raises:
            PersonaError: another process trains here, or the folder holds an unfinished training of other data,
                parameters or number of processes.
        """
        self._take_lock()
        file = self.path / "fingerprint.json"
        earlier = self._renamed(fingerprint)
        if file.exists():
            saved = json.loads(file.read_text(encoding="utf-8"))
            # What these were before they could be chosen. Other keys that an older version did not write are not
            # compared.
            was = {"batch_by": "sample", **LATER_SETTINGS} | saved
            differing = [key for key in sorted({*was} & {*fingerprint}) if was[key] != fingerprint[key]]
            if not differing:
                self._forget_how_it_ended()
                return
            if self._has_begun and not self.finished and not earlier.exists():
                self.close()  # the reason why that training ended is to stay
                changes = "; ".join(f"{key}: was {was[key]}, is {fingerprint[key]}" for key in differing)
                raise PersonaError(
                    f"{self.path} holds an unfinished training of something else ({changes}). Undo the change to "
                    "continue it, raise the recipe's version to train beside it, or delete that folder"
                )
            if self._has_begun:
                self.path.rename(self._renamed(saved))
        if earlier.exists():
            shutil.rmtree(self.path, ignore_errors=True)
            earlier.rename(self.path)
        self._take_lock()
        self._forget_how_it_ended()
        write_json(fingerprint, file)

    @property
    def _has_begun(self) -> bool:
        """Whether a step was made here, or a training finished."""
        log = self.path / JSON_LOG
        return self.finished or self._latest.exists() or (log.exists() and log.stat().st_size > 0)

    def _forget_how_it_ended(self) -> None:
        (self.path / ENDED).unlink(missing_ok=True)

    def _renamed(self, fingerprint: dict[str, Any]) -> Path:
        return self.path.with_name(f"{self.path.name}-{digest(fingerprint)}")

    @contextmanager
    def leaving_word(self) -> Iterator[None]:
        """If this object holds the lock and an error ends the training, write down the reason."""
        try:
            yield
        except BaseException as error:
            if self._lock is not None:
                reason = str(error) if isinstance(error, PersonaError) else f"{type(error).__name__}: {error}"
                with suppress(OSError):  # the error that ended it says more
                    write_json({"reason": reason}, self.path / ENDED)
            raise

    def close(self) -> None:
        """Release the lock, if this object holds it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        self.close()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise PersonaError(
                f"another process is training in {self.path}; wait for it, or end it if its Snakemake is gone"
            ) from error
        # The machine on which the lock can be seen for certain.
        lock.truncate(0)
        print(socket.gethostname(), file=lock, flush=True)
        self._lock = lock

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return self._finished.exists()

    def load(self, engine: Any, best: BestWeights) -> LoopState:
        """Load the newest complete checkpoint into the engine and `best`, if there is one."""
        if not self._latest.exists():
            return LoopState()
        latest = json.loads(self._latest.read_text(encoding="utf-8"))
        if "validated_step" not in latest["state"]:
            raise PersonaError(
                f"{self.path}: an earlier version of this program saved this training; finish it with that version, or "
                "delete the folder to start from the beginning"
            )
        checkpoint = self.checkpoints / latest["tag"]
        whole = not _has_frozen_weights(engine) and engine.expert_optimizer is None
        path, _ = engine.load_checkpoint(str(self.checkpoints), tag=latest["tag"], load_module_strict=whole)
        if path is None:
            raise PersonaError(f"{checkpoint}: cannot be loaded; delete {self.path} to start from the beginning")
        if engine.expert_optimizer is not None:
            engine.expert_optimizer.load(checkpoint)
        best.load(checkpoint)
        return LoopState(**latest["state"])

    def save(
        self, engine: Any, writer: CheckpointWriter, best: BestWeights, state: LoopState, behind: bool = False
    ) -> None:
        """Begin a checkpoint, after the one before is complete; `conclude` ends it.

        Args:
            behind: whether it may be written while the training goes on. It is if all hosts have the memory for it.
        """
        self.conclude(writer)
        tag = f"step_{state.global_step}"
        share = checkpoint_bytes(engine.module) // dist.get_world_size() + best.n_bytes
        [no_memory] = any_rank([not fits_in_host_memory(share)], engine.device)
        writer.behind = behind and not no_memory
        of_best = torch.tensor(best.n_bytes, device=engine.device)
        dist.all_reduce(of_best)
        self.check_room(checkpoint_bytes(engine.module) + int(of_best), "a checkpoint")
        with full_disk_explained(self.path):
            # Frozen weights are in the base model.
            engine.save_checkpoint(
                str(self.checkpoints), tag=tag, save_latest=False, exclude_frozen_parameters=_has_frozen_weights(engine)
            )
            if engine.expert_optimizer is not None:
                engine.expert_optimizer.save(writer, self.checkpoints / tag)
            best.save(writer, self.checkpoints / tag)
        if not writer.behind:
            dist.barrier()  # here, where processes may wait for hours for one whose disk is slow
        self._being_written = {"tag": tag, "state": asdict(state)}

    def conclude(self, writer: CheckpointWriter) -> None:
        """Wait until the checkpoint that was begun is written by all ranks; then `latest.json` names it."""
        if self._being_written is None:
            return
        with full_disk_explained(self.path):
            writer.wait()
        dist.barrier()
        if dist.get_rank() == 0:
            tag = self._being_written["tag"]
            sync_folder(self.checkpoints / tag)
            write_json(self._being_written, self._latest)
            for old in self.checkpoints.glob("step_*"):
                if old.name != tag:
                    shutil.rmtree(old)
        self._being_written = None
        dist.barrier()

    def check_room(self, needed: int, what: str) -> None:
        """Check, before anything is written, that the disk has room for so many bytes.

        Raises:
            PersonaError: it has not.
        """
        if dist.get_rank() == 0:
            require_room(self.path, needed, what)

    def finish(self, summary: dict[str, Any]) -> None:
        """Record that the training is finished."""
        write_json(summary, self._finished)

    def discard_state(self) -> None:
        """Delete the training state of a finished training."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def summary(self) -> dict[str, Any]:
        """The summary that `finish` was given."""
        loaded: dict[str, Any] = json.loads(self._finished.read_text(encoding="utf-8"))
        return loaded


def checkpoint_bytes(model: nn.Module) -> int:
    """Bytes of the training state of all ranks: the float32 copy of each trained weight and Adam's two moments.

    Below ZeRO-3 DeepSpeed writes the weights themselves as well. Of spread experts every process writes its own.
    """
    return sum(_state_bytes(p) for p in model.parameters() if p.requires_grad)


def _state_bytes(parameter: Any) -> int:
    if parts(parameter) > 1:
        return 12 * int(parameter.numel()) * dist.get_world_size()
    if hasattr(parameter, "ds_numel"):
        return 12 * int(parameter.ds_numel)
    return int((12 + parameter.element_size()) * parameter.numel())


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise PersonaError if fewer than `needed` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PersonaError(
            f"{folder}: {what} needs {human_size(needed)} and {human_size(free)} are free; "
            "make room and start again: the last checkpoint is complete"
        )


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn a failed write into a PersonaError that says so if the disk of `folder`, or a quota, is full."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch says no more about its writer than that it failed.
        failed_to_write = getattr(error, "errno", None) in NO_ROOM or "PytorchStreamWriter" in str(error)
        if not failed_to_write and shutil.disk_usage(folder).free > FULL:
            raise
        raise PersonaError(
            f"{folder}: the disk or the quota became full; make room and start again: the last checkpoint is complete"
        ) from error


def _has_frozen_weights(engine: Any) -> bool:
    return not all(p.requires_grad for p in engine.module.parameters())


def digest(fingerprint: dict[str, Any]) -> str:
    """A short name of a fingerprint."""
    # Without these a training keeps the name that an older version gave it.
    named = {key: value for key, value in fingerprint.items() if (key, value) not in LATER_SETTINGS.items()}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a folder with the files of `source`; it appears only when it is complete.

    The files are hard links where the file system supports them: a model is on disk once, and a rule's output can
    be deleted without losing the training.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=_link_or_copy)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
