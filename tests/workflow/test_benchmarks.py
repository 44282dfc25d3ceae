"""Benchmarks run, at their smallest size: the last line that each prints is one JSON object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
SLOW, LONG = pytest.mark.slow, pytest.mark.long


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("evaluation", "--rows 300 --training-texts 500"),
        pytest.param("data_pipeline", "--users 6000 --long-users 4 --loop-samples 20", marks=LONG),
        pytest.param("training", "--rounds 1 --trl-rounds 0 --hidden-size 32 --layers 1 --experts 4", marks=LONG),
        pytest.param("host", "--layers 2 --rounds 1", marks=SLOW),
        pytest.param("saving", "--epochs 1", marks=LONG),
        pytest.param("writers", "--megabytes 100 --rounds 1", marks=LONG),
        pytest.param("expert_parallel", "--rounds 1 --rates 10000", marks=[LONG, NEEDS_ROOT]),
        # Minutes also at the smallest size that it takes.
        pytest.param("prefix_sharing", "--users 100 --rounds 1", marks=LONG),
    ],
    ids=["evaluation", "data_pipeline", "training", "host", "saving", "writers", "expert_parallel", "prefix_sharing"],
)
def test_a_benchmark_ends_with_one_json_object(tmp_path: Path, name: str, arguments: str) -> None:
    # In a folder of its own: some write their data where they are started.
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert isinstance(figures, dict) and figures
