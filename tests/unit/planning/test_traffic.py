"""The planned traffic against the collectives that a training calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MICRO_STEPS = [1, 3]


Figures = dict[str, list[dict[str, float]]]


@pytest.fixture(scope="module")
def counted() -> Figures:
    run = subprocess.run(
        [sys.executable, "-m", "tests.counted_traffic", *map(str, MICRO_STEPS)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    figures: Figures = json.loads(run.stdout.splitlines()[-1])
    return figures


def test_traffic_is_what_a_training_with_the_proportions_of_the_30b_calls_for(counted: Figures) -> None:
    """Gradients once and weights twice in each micro-step.

    Of the weights some 3 % less, as in the 30B: those of the head and the last layers stay from the forward to the
    backward pass (`stage3_max_reuse_distance`), and norms and routers stay all the time.
    """
    one, three = counted["zero3"]
    for found in (one, three):
        assert found["reduced"] == found["planned_reduced"]
        assert 0.95 < found["gathered"] / found["planned_gathered"] < 1.0
    assert three["gathered"] == pytest.approx(3 * one["gathered"], rel=0.01)


def test_with_spread_experts_hidden_states_travel_and_few_weights(counted: Figures) -> None:
    """ZeRO-1 gathers and reduces all other weights once a step, however many micro-steps it has."""
    one, three = counted["spread"]
    for found in (one, three):
        for kind in ("gathered", "reduced", "exchanged"):
            assert found[kind] == pytest.approx(found[f"planned_{kind}"], rel=0.001), kind
    assert three["exchanged"] == 3 * one["exchanged"]
    assert three["gathered"] == one["gathered"]
