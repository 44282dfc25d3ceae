"""The trainings of a results folder."""

from __future__ import annotations

import fcntl
import re
import time
from dataclasses import dataclass
from pathlib import Path

from persona.training.logs import JSON_LOG

QUIET_SECONDS = 7200
VERSION = re.compile(r"v(\d+)(-[0-9a-f]{12})?")


@dataclass(frozen=True)
class Run:
    """The folder of a training, `DATASET/runs/SAMPLE/ABLATION/RECIPE/v1`, or of one that was set aside, `v1-...`."""

    path: Path

    @property
    def results(self) -> Path:
        """The folder of the data set."""
        return self.path.parents[4]

    @property
    def factors(self) -> str:
        """What tells it from others, and stands in the paths of its model."""
        return "/".join(self.path.parts[-4:-1])

    @property
    def version(self) -> int:
        found = VERSION.fullmatch(self.path.name)
        return int(found[1]) if found else 0

    @property
    def set_aside(self) -> bool:
        return "-" in self.path.name

    @property
    def finished(self) -> bool:
        return (self.path / "finished.json").exists()

    @property
    def locked(self) -> bool:
        """Whether a process trains here, as far as this machine sees the locks of others."""
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
    def may_be_training(self) -> bool:
        """Whether to keep away: it is locked, or not finished and something in it was written in the last two hours.

        Between two lines of its log a large model may load, be validated, exported and saved.
        """
        if self.locked:
            return True
        times = [file.stat().st_mtime for file in self.path.rglob("*") if file.exists()]
        return not self.finished and time.time() - max(times, default=0.0) < QUIET_SECONDS

    def seconds_silent(self) -> float:
        """Since the last line of its log."""
        log = self.path / JSON_LOG
        return time.time() - log.stat().st_mtime if log.exists() else float("inf")


def find_runs(results: Path) -> list[Run]:
    """All trainings below a folder, in the order of their paths."""
    folders = [folder for runs in sorted(results.rglob("runs")) for folder in sorted(runs.glob("*/*/*/v*"))]
    return [Run(folder) for folder in folders if VERSION.fullmatch(folder.name)]
