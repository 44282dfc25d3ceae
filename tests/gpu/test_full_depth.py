"""The 30B's training at full depth as one of eight processes sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
NEEDED_GIB = 78


@pytest.mark.parametrize("spread", [False, True], ids=["zero3", "spread"])
@pytest.mark.parametrize("row_tokens", [1024, 8192])
def test_one_of_eight_processes_at_full_depth(
    row_tokens: int, spread: bool, device: torch.device, figures: dict[str, Any]
) -> None:
    """Random tokens choose random experts, and as many tokens come from the other processes as are sent to them."""
    if torch.cuda.get_device_properties(device).total_memory < NEEDED_GIB * 2**30:
        pytest.skip("needs a GPU of 80 GB")
    torch.cuda.empty_cache()
    run = subprocess.run(
        [sys.executable, "-m", "tests.gpu.full_depth", str(row_tokens), str(int(spread))],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    figures[f"full_depth_{row_tokens}_{'spread' if spread else 'zero3'}"] = found
    assert found["peak_gib"] == pytest.approx(found["planned_gib"], rel=0.05)
    assert found["static_gib"] == pytest.approx(found["planned_static_gib"], rel=0.05)
