"""The code of docs/python.md runs as in a notebook: one process, which torchrun did not start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# The process must live on after `train` and `evaluate`, without a process group and with its own signal handlers.
AFTERWARDS = """
import os, signal
import torch.distributed as dist

assert not dist.is_initialized() and "LOCAL_RANK" not in os.environ
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert scores.height and reviews.height == 4 and (files.model / "model.safetensors").exists()
train(files, optimization, schedule, ExportSettings(merge_adapter=False, keep_training_state=False), factors={})
again = files.__class__(**vars(files) | {"run_folder": work / "again", "train_log": work / "again.jsonl"})
train(again, optimization, schedule, ExportSettings(merge_adapter=False, keep_training_state=False), factors={})
logs = [read_log(each.train_log) for each in (files, again)]
losses = [[record["loss"] for record in log if record["type"] == "step"] for log in logs]
assert losses[0] == losses[1] and len(losses[0]) > 2
print("alive")
"""


def test_the_code_of_the_page_runs_in_one_process(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (tmp_path / "page.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)) + AFTERWARDS)
    (tmp_path / "config").symlink_to(ROOT / "config")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    finished = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=environment | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.endswith("alive\n")


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "torch transformers deepspeed polars pyarrow numpy pydantic"
    script = f"import sys, persona; print([name for name in '{heavy}'.split() if name in sys.modules], dir(persona))"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("[] ") and "'train'" in printed


def test_the_data_steps_import_no_torch() -> None:
    script = (
        "import sys; from persona import ingest, render, sample_targets, split_users, tokenize; print(*sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "deepspeed", "accelerate", "peft", "wandb"} & set(printed.split())


def test_without_torch_the_error_says_what_to_install() -> None:
    # None in sys.modules makes the import fail as if the package were not there.
    script = "import sys; sys.modules['torch'] = None; from persona import train"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stderr.rstrip().endswith(
        "torch is not installed; training and evaluation need it: pip install -e '.[train]'"
    )
