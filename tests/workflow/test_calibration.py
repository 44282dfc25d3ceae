"""`python -m persona calibrate` on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from persona.planning.settings import Hardware

pytestmark = pytest.mark.long


def test_it_prints_a_hardware_section_that_the_configuration_takes(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "persona", "calibrate"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    hardware = Hardware.model_validate(yaml.safe_load(run.stdout)["hardware"])
    assert hardware.measured and hardware.measured.startswith("2 x ")
    assert hardware.micro_step_overhead_s > 0 and hardware.start_s > 1
    assert not list(tmp_path.iterdir()), "the reference models are left"
