"""`train.py`, but once room for the second checkpoint was found, something else takes it."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path

from persona.training.checkpoints import RunFolder

TRAIN = Path(__file__).parents[2] / "workflow" / "scripts" / "train.py"
LEFT = 100_000  # bytes: a checkpoint is begun and does not fit

look = RunFolder.check_room
looked = 0


def look_and_fill(self: RunFolder, needed: int, what: str) -> None:
    global looked
    look(self, needed, what)
    looked += 1
    if looked == 2:
        with (self.path.parent / "filled").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.path).free - LEFT)


RunFolder.check_room = look_and_fill  # type: ignore[method-assign]
runpy.run_path(str(TRAIN), run_name="__main__")
