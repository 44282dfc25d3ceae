"""Find the trainings in a results folder."""

from __future__ import annotations

import fcntl
import json
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from persona.training.logs import ENDED, JSON_LOG

QUIET_SECONDS = 7200
VERSION = re.compile(r"v(\d+)(-[0-9a-f]{12})?")


@dataclass(frozen=True)
class Run:
    """The folder of a training: `DATASET/runs/SAMPLE/ABLATION/RECIPE/v1`, or `v1-...` if it was set aside."""

    path: Path

    @property
    def results(self) -> Path:
        """The folder of the data set."""
        return self.path.parents[4]

    @property
    def factors(self) -> str:
        """`SAMPLE/ABLATION/RECIPE`, which is also part of the path of its model."""
        return "/".join(self.path.parts[-4:-1])

    @property
    def version(self) -> int:
        """The version of the recipe, from the name of the folder."""
        found = VERSION.fullmatch(self.path.name)
        return int(found[1]) if found else 0

    @property
    def set_aside(self) -> bool:
        """Whether it is a training of earlier data or settings."""
        return "-" in self.path.name

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return (self.path / "finished.json").exists()

    @property
    def locked(self) -> bool:
        """Whether a process holds the lock. The locks of other machines may not be visible on this file system."""
        lock = self.path / "lock"
        if not lock.exists():
            return False
        with lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @property
    def ended(self) -> bool:
        """Whether its process is gone for certain: it left its word, or this machine's lock is free."""
        if self.locked:
            return False
        lock = self.path / "lock"
        is_here = lock.exists() and lock.read_text(encoding="utf-8").strip() == socket.gethostname()
        return is_here or self.last_word is not None

    @property
    def last_word(self) -> str | None:
        """Why it stopped, if it could say so."""
        file = self.path / ENDED
        return json.loads(file.read_text(encoding="utf-8"))["reason"] if file.exists() else None

    @property
    def may_be_training(self) -> bool:
        """Whether it is locked, or unfinished with a file that was written in the last `QUIET_SECONDS`.

        A large model can take long to load, validate, export or save without writing to its log.
        """
        if self.locked:
            return True
        times = [file.stat().st_mtime for file in self.path.rglob("*") if file.exists()]
        return not self.finished and time.time() - max(times, default=0.0) < QUIET_SECONDS

    def seconds_silent(self) -> float:
        """Seconds since the last line of its log; infinite if there is no log."""
        log = self.path / JSON_LOG
        return time.time() - log.stat().st_mtime if log.exists() else float("inf")


def find_runs(results: Path) -> list[Run]:
    """All trainings below a folder, sorted by path."""
    folders = [folder for runs in sorted(results.rglob("runs")) for folder in sorted(runs.glob("*/*/*/v*"))]
    return [Run(folder) for folder in folders if VERSION.fullmatch(folder.name)]
