"""Started by torchrun: `evaluate.py` in which the second process never ends the task that the first argument names."""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from persona.evaluation.resumable import ResumableWork

SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "evaluate.py"

stopped = sys.argv.pop(1)
write = ResumableWork._write


def write_or_stop(self: ResumableWork, task: Any, *others: Any) -> None:
    while task.name == stopped and os.environ["RANK"] == "1":
        time.sleep(1)
    write(self, task, *others)


ResumableWork._write = write_or_stop  # type: ignore[method-assign, assignment]
runpy.run_path(str(SCRIPT), run_name="__main__")
