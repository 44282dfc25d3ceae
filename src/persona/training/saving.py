"""When and how a training is saved: rarely, and behind the training where the host's memory allows it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from persona.modeling.expert_parallel import parts

MEMORY_LEFT = 0.1  # share of the host's memory that copies of the state must leave free


class CheckpointWriter:
    """Writes the files of one process's checkpoints in place of DeepSpeed, which says what is in them.

    With `behind`, `save` copies the state to host memory and returns; a thread writes the copy while steps go on.
    Writing a tensor does not hold Python's lock.
    """

    def __init__(self, engine: Any) -> None:
        engine.checkpoint_engine.save = self.save
        self.behind = False
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._files: list[Future[None]] = []

    def save(self, state_dict: Any, path: str) -> None:
        """Write a file, at once or behind the training."""
        if self.behind:
            self._files.append(self._thread.submit(_write, in_host_memory(state_dict), path))
        else:
            _write(state_dict, path)

    @property
    def is_writing(self) -> bool:
        """Whether a file is not written yet."""
        return not all(file.done() for file in self._files)

    @property
    def failed(self) -> bool:
        """Whether a file could not be written."""
        return any(file.done() and file.exception() for file in self._files)

    def wait(self) -> None:
        """Wait until all files are written. Raises the error of the first that could not be written."""
        files, self._files = self._files, []
        for file in files:
            file.result()


def _write(state: Any, path: str) -> None:
    """Write a file and wait until it is on the disk."""
    with Path(path).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def in_host_memory(state: Any) -> Any:
    """A copy of nested dicts and lists whose tensors are in host memory and do not change any more."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return type(state)((key, in_host_memory(value)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(in_host_memory(value) for value in state)
    return state


def fits_in_host_memory(n_bytes: int) -> bool:
    """Whether every process of this machine can copy so many bytes to host memory."""
    memory = psutil.virtual_memory()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return bool(n_bytes * processes < memory.available - MEMORY_LEFT * memory.total)


@dataclass
class SaveTimer:
    """Says when a checkpoint is due.

    After `minutes` since the last one, or later where saving would take more than `share` of the time: as long as the
    last one held up the training, divided by `share`. The idea of measuring the share is CheckFreq's (Mohan et al.,
    FAST 2021).
    """

    minutes: float
    share: float
    clock: Callable[[], float] = time.monotonic
    _held_up: float = 0.0
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self.clock() - self._last >= max(60 * self.minutes, self._held_up / self.share)

    def saved(self, held_up: float) -> None:
        """Start again. `held_up`: seconds that the training waited for the checkpoint."""
        self._last, self._held_up = self.clock(), held_up


class BestWeights:
    """The best weights so far, in host memory, in the precision of the training.

    Under ZeRO-3 each process holds its own part of every trained weight. Otherwise every process has all of them, and
    rank 0 holds them; of spread experts each process holds its own.
    """

    def __init__(self) -> None:
        self._parts: dict[str, torch.Tensor] = {}

    def keep(self, model: torch.nn.Module) -> None:
        """Copy the weights of now."""
        for name, part in _parts_of(model):
            if name in self._parts:
                self._parts[name].copy_(part)
            else:
                self._parts[name] = in_host_memory(part)

    def restore(self, model: torch.nn.Module) -> None:
        """Put the kept weights into the model. Its optimizer does not hear of it: train no further."""
        for name, part in _parts_of(model):
            part.copy_(self._parts[name])

    def save(self, writer: CheckpointWriter, checkpoint: Path) -> None:
        """Write this process's part into a checkpoint."""
        writer.save(self._parts, str(self._file(checkpoint)))

    def load(self, checkpoint: Path) -> None:
        """Read this process's part from a checkpoint."""
        self._parts = torch.load(self._file(checkpoint), weights_only=True)

    @property
    def n_bytes(self) -> int:
        """Bytes of this process's part."""
        return sum(part.nbytes for part in self._parts.values())

    def _file(self, checkpoint: Path) -> Path:
        return checkpoint / f"best_rank_{dist.get_rank()}.pt"


def _parts_of(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """What this process keeps of each trained weight."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if any(hasattr(p, "ds_tensor") for _, p in trained):
        return [(name, p.ds_tensor.data) for name, p in trained]  # type: ignore[attr-defined]
    return [(name, p.data) for name, p in trained if dist.get_rank() == 0 or parts(p) > 1]
