"""The commands of the workflow start without what they do not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.workflow.conftest import ROOT

SCRIPTS = ROOT / "workflow" / "scripts"
# Of training and evaluation; `plan.py` packs rows with the training's own code.
OTHER_STEPS = ["evaluate", "make_tiny_model", "measure", "measure_baselines", "plan", "report", "train"]
DATA_STEPS = sorted({file.stem for file in SCRIPTS.glob("*.py")} - set(OTHER_STEPS))
HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
heavy = sorted({"torch", "transformers", "deepspeed"} & set(sys.modules))
assert not heavy, heavy
"""


@pytest.mark.parametrize("step", DATA_STEPS)
def test_a_script_of_a_data_step_imports_no_torch(step: str) -> None:
    """Importing it takes seconds, which each of the many data steps would spend."""
    script = str(SCRIPTS / f"{step}.py")
    run = subprocess.run([sys.executable, "-c", HELP, script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
