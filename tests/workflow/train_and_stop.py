"""`train.py` that receives SIGTERM, in every process, after as many steps as the first argument says."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from persona.training import engine, loop

TRAIN = Path(__file__).parents[2] / "workflow" / "scripts" / "train.py"

steps_left = int(sys.argv.pop(1))
step = engine.optimizer_step


def step_and_stop(engine: Any) -> tuple[float, float]:
    global steps_left
    steps_left -= 1
    if steps_left == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(engine)


vars(loop)["optimizer_step"] = step_and_stop
try:
    runpy.run_path(str(TRAIN), run_name="__main__")
finally:
    vars(loop)["optimizer_step"] = step
