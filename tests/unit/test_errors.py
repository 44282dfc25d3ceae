"""What stops a training is one line with the step and what to change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from persona.errors import PersonaError
from persona.training.loop import explain_errors


def test_memory_that_is_not_there() -> None:
    message = r"step 7: out of memory with rows of 4096 tokens: lower max_tokens_per_gpu .*gradient_checkpointing: true"
    with pytest.raises(PersonaError, match=message), explain_errors("step 7", 4096):
        torch.empty(2**50)


SCRIPT = """
import datetime, sys, time
import torch, torch.distributed as dist
from persona.errors import run_command
from persona.training.loop import explain_errors

def main():
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=2))
    if dist.get_rank() == 1:
        time.sleep(float(sys.argv[1]))
        return
    with explain_errors("step 7", 4096):
        dist.all_reduce(torch.ones(1))

run_command(main)
"""


@pytest.mark.parametrize("seconds", [0, 10], ids=["ended", "does_not_answer"])
def test_another_process_is_gone(tmp_path: Path, seconds: int) -> None:
    (tmp_path / "two.py").write_text(SCRIPT, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(tmp_path / "two.py"), str(seconds)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "error: step 7: another process ended or did not answer" in finished.stderr


def test_any_other_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape"), explain_errors("step 7", 4096):
        torch.zeros(3).view(2, 2)
