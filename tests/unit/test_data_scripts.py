"""The scripts of the data steps start fast: they import no library of training or evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
DATA_STEPS = [
    "ingest",
    "partition_rows",
    "build_tables",
    "gather",
    "gather_ingest",
    "gather_sample",
    "split",
    "sample",
    "render",
    "tokenize_prompts",
    "preview",
    "generate_data",
    "audit_prompts",
    "audit_sample",
]
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


def test_scripts_of_data_steps_import_no_slow_library() -> None:
    command = [sys.executable, "-c", CODE, str(SCRIPTS), ",".join(DATA_STEPS), ",".join(SLOW)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(finished.stdout) == {name: [] for name in DATA_STEPS}
