"""Scripts start fast: those that need no model import no library of training, those of data steps still less."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
# `plan.py` packs rows with the training's own code.
OF_MODELS = {"evaluate", "make_tiny_model", "plan", "train"}
OF_EVALUATION = {"baselines", "build_targets", "measure", "measure_baselines", "report"}
WITHOUT_MODEL = sorted({file.stem for file in SCRIPTS.glob("*.py")} - OF_MODELS)
DATA_STEPS = sorted({*WITHOUT_MODEL} - OF_EVALUATION)
HEAVY = ["torch", "transformers", "deepspeed"]
SLOW = ["torch", "transformers", "tokenizers", "deepspeed", "sklearn", "scipy", "datasketch", "matplotlib", "jinja2"]
# All scripts in one process; each is charged with what it loads first.
CODE = """
import json, runpy, sys
folder, scripts, slow = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
loaded = {}
for script in scripts:
    before = set(sys.modules)
    runpy.run_path(f"{folder}/{script}.py", run_name="imported")
    loaded[script] = [name for name in slow if name in set(sys.modules) - before]
print(json.dumps(loaded))
"""


def first_imports(scripts: list[str], libraries: list[str]) -> dict[str, list[str]]:
    """Which of some libraries each script imports first."""
    command = [sys.executable, "-c", CODE, str(SCRIPTS), ",".join(scripts), ",".join(libraries)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, list[str]] = json.loads(finished.stdout)
    return found


def test_scripts_of_data_steps_import_no_slow_library() -> None:
    assert len(DATA_STEPS) == 16
    assert first_imports(DATA_STEPS, SLOW) == {name: [] for name in DATA_STEPS}


def test_scripts_that_need_no_model_import_no_library_of_training() -> None:
    """Importing it takes seconds, which each of the many steps would spend."""
    assert first_imports(WITHOUT_MODEL, HEAVY) == {name: [] for name in WITHOUT_MODEL}
