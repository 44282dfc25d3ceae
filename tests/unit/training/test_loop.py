"""Which targets make up an optimizer step; what stops a training is one line with the step and what to change."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from persona.errors import PersonaError
from persona.training.loop import explain_errors, step_targets
from persona.training.settings import Schedule


def schedule(samples_per_step: int, batch_by: Literal["user", "sample"]) -> Schedule:
    return Schedule(samples_per_step=samples_per_step, max_tokens_per_gpu=1000, max_epochs=1, seed=7, batch_by=batch_by)


def users_with(counts: list[int]) -> np.ndarray:
    """The user of each target, in no order."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


@given(COUNTS, st.integers(1, 40), st.integers(0, 3))
@example([1] * 50, 8, 0)
@example([30, 1, 30], 8, 0)
@example([8] * 9, 8, 0)
def test_a_user_is_in_one_step_and_steps_are_nearly_as_large_as_configured(
    counts: list[int], samples_per_step: int, epoch: int
) -> None:
    users = users_with(counts)
    steps = step_targets(users, schedule(samples_per_step, "user"), epoch)
    assert sorted(np.concatenate(steps).tolist()) == list(range(len(users)))
    assert len(steps) == math.ceil(len(users) / samples_per_step)
    even = len(users) / len(steps)
    largest = min(max(counts), int(even))
    for step in steps:
        assert len(step) > 0
        assert abs(len(step) - even) <= largest
    for user, count in enumerate(counts):
        parts = math.ceil(count / int(even))
        assert len([step for step in steps if user in users[step]]) <= parts


@given(COUNTS, st.integers(1, 40))
def test_steps_by_sample_have_the_configured_number(counts: list[int], samples_per_step: int) -> None:
    users = users_with(counts)
    steps = step_targets(users, schedule(samples_per_step, "sample"), epoch=1)
    assert sorted(np.concatenate(steps).tolist()) == list(range(len(users)))
    assert {len(step) for step in steps[:-1]} <= {samples_per_step}
    assert 0 < len(steps[-1]) <= samples_per_step


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    users = users_with([3] * 40)
    for batch_by in ("user", "sample"):
        plan = schedule(16, batch_by)  # type: ignore[arg-type]
        first, again, other = (np.concatenate(step_targets(users, plan, epoch)).tolist() for epoch in (0, 0, 1))
        assert first == again != other


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
    dist.init_process_group("gloo")
    group = dist.new_group(timeout=datetime.timedelta(seconds=2))
    dist.barrier()
    if dist.get_rank() == 1:
        time.sleep(float(sys.argv[1]))
        return
    with explain_errors("step 7", 4096):
        dist.all_reduce(torch.ones(1), group=group)

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
