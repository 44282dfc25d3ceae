"""The commands of the workflow start without what they do not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT

SCRIPTS = ROOT / "workflow" / "scripts"
# They compute with a model.
WITH_TORCH = {"train.py", "evaluate.py", "make_tiny_model.py"}
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


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda script: script.name)
def test_a_script_of_a_data_step_imports_no_torch(script: Path) -> None:
    """Importing it takes seconds, which each of the many data steps would spend."""
    if script.name in WITH_TORCH:
        pytest.skip("it computes with a model")
    run = subprocess.run(
        [sys.executable, "-c", HELP, str(script)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{script.name}: {run.stderr}"
