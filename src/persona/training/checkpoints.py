"""Training state on disk: what a killed training goes on from, and the best model so far.

A run folder holds

    fingerprint.json   what the training is a function of; another one refuses to go on here
    latest.json        tag of the newest complete checkpoint and the state of the loop
    checkpoints/       DeepSpeed checkpoints; all but the newest are deleted
    best/              the best model so far, an ordinary Hugging Face folder
    finished.json      written last
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from persona import artefacts
from persona.errors import PersonaError


@dataclass
class LoopState:
    """Where the loop stands. With the seed it decides everything that comes."""

    epoch: int = 0
    step_in_epoch: int = 0
    global_step: int = 0
    best_val_loss: float = float("inf")
    best_epoch: int = -1
    bad_epochs: int = 0
    seconds: float = 0.0
    tokens: int = 0

    @property
    def started(self) -> bool:
        return self.global_step > 0


class RunFolder:
    """The folder of one training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best"
        self.checkpoints = path / "checkpoints"
        self._latest = path / "latest.json"
        self._finished = path / "finished.json"

    def claim(self, fingerprint: dict[str, Any]) -> None:
        """Make the folder this training's own.

        Raises:
            PersonaError: it belongs to a training of other data, parameters or number of processes.
        """
        file = self.path / "fingerprint.json"
        if not file.exists():
            artefacts.write_json(fingerprint, file)
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        differing = [key for key in sorted({*found, *fingerprint}) if found.get(key) != fingerprint.get(key)]
        if differing:
            changes = "; ".join(f"{key}: was {found.get(key)}, is {fingerprint.get(key)}" for key in differing)
            raise PersonaError(
                f"{self.path} holds the state of another training ({changes}). "
                "Undo the change to go on with it, name a new recipe, or delete that folder to train anew"
            )

    @property
    def finished(self) -> bool:
        return self._finished.exists()

    def load(self, engine: Any) -> LoopState:
        """Load the newest complete checkpoint into the engine, if there is one."""
        if not self._latest.exists():
            return LoopState()
        latest = json.loads(self._latest.read_text(encoding="utf-8"))
        path, _ = engine.load_checkpoint(str(self.checkpoints), tag=latest["tag"])
        if path is None:
            raise PersonaError(
                f"{self.checkpoints / latest['tag']}: cannot be loaded; delete {self.path} to start anew"
            )
        return LoopState(**latest["state"])

    def save(self, engine: Any, state: LoopState) -> None:
        """Save a checkpoint; only when it is complete on all ranks does the pointer move to it."""
        tag = f"step_{state.global_step}"
        engine.save_checkpoint(str(self.checkpoints), tag=tag, save_latest=False)
        dist.barrier()
        if dist.get_rank() == 0:
            artefacts.write_json({"tag": tag, "state": asdict(state)}, self._latest)
            for old in self.checkpoints.glob("step_*"):
                if old.name != tag:
                    shutil.rmtree(old)
        dist.barrier()

    def replace_best(self, exported: Path) -> None:
        """Put a completely exported model in the place of the best one."""
        old = self.path / "best.old"
        shutil.rmtree(old, ignore_errors=True)
        if self.best.exists():
            self.best.rename(old)
        exported.rename(self.best)
        shutil.rmtree(old, ignore_errors=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """Note the end; the training state is of no more use and goes."""
        artefacts.write_json(summary, self._finished)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def summary(self) -> dict[str, Any]:
        """What `finish` was given."""
        loaded: dict[str, Any] = json.loads(self._finished.read_text(encoding="utf-8"))
        return loaded


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a folder of the same files, in one step at the end.

    The files are hard links where the file system has them: a model is on disk once, and a rule's output can
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
