"""The plan of the 30B's training against a simulated one: real widths, few layers, tensors without values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from persona.planning.cost import Launch, memory, model_size
from tests.gpu.real_model import real_config

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
DEEPSPEED = ROOT / "config" / "deepspeed" / "zero3.json"
DEEPSPEED_SPREAD = DEEPSPEED.with_name("zero1.json")
FEW, MORE, ALL = 6, 12, 48  # layers
CASES = [(8192, True), (8192, False), (2048, False)]  # tokens of a row; whether activations are recomputed
SPREAD_CASES = [(8192, True), (8192, False), (4096, False)]
# tests/gpu/full_depth.py on an H100: 48 layers, 8,192 tokens, recomputed; GiB and bytes
MEASURED = {"peak": 67.7, "static": 58.2, "gathered": 118.4e9, "reduced": 61.1e9}

Simulated = dict[tuple[int, int, bool], dict[str, float]]


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    """Figures by layers, tokens and whether activations are recomputed, under ZeRO-3."""
    return simulate(CASES, spread=False)


@pytest.fixture(scope="module")
def spread() -> Simulated:
    """The same of steps of two rows with experts spread over the eight processes."""
    return simulate(SPREAD_CASES, spread=True)


def simulate(of: list[tuple[int, bool]], spread: bool) -> Simulated:
    cases = [(layers, *case) for layers in (FEW, MORE) for case in of]
    numbers = [str(int(number)) for case in cases for number in (*case, spread)]
    run = subprocess.run(
        [sys.executable, "-m", "tests.simulated", *numbers],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return dict(zip(cases, json.loads(run.stdout.splitlines()[-1]), strict=True))


def at_full_depth(simulated: Simulated, figure: str, tokens: int, recompute: bool) -> float:
    """A figure of 48 layers: each layer adds as much as those between 6 and 12."""
    few, more = (simulated[layers, tokens, recompute][figure] for layers in (FEW, MORE))
    return more + (more - few) / (MORE - FEW) * (ALL - MORE)


@pytest.mark.parametrize(("tokens", "recompute"), CASES)
def test_memory_is_what_a_simulated_training_holds(simulated: Simulated, tokens: int, recompute: bool) -> None:
    for layers in (FEW, MORE):
        found = simulated[layers, tokens, recompute]
        assert found["planned_peak"] == pytest.approx(found["peak"], rel=0.05)
        assert found["planned_static"] == pytest.approx(found["static"], rel=0.01)


@pytest.mark.parametrize(("tokens", "recompute"), CASES)
def test_memory_at_full_depth_is_what_a_simulated_training_would_hold(
    simulated: Simulated, tmp_path: Path, tokens: int, recompute: bool
) -> None:
    real_config(ALL).save_pretrained(tmp_path)
    launch = Launch.from_deepspeed(DEEPSPEED, processes=8, bytes_per_weight=2)
    planned = memory(model_size(str(tmp_path), None), launch, tokens, recompute)
    assert planned.total == pytest.approx(at_full_depth(simulated, "peak", tokens, recompute), rel=0.05)


@pytest.mark.parametrize(("tokens", "recompute"), SPREAD_CASES)
def test_memory_with_spread_experts_is_what_a_simulated_training_holds(
    spread: Simulated, tmp_path: Path, tokens: int, recompute: bool
) -> None:
    for layers in (FEW, MORE):
        found = spread[layers, tokens, recompute]
        assert found["planned_peak"] == pytest.approx(found["peak"], rel=0.05)
        assert found["planned_static"] == pytest.approx(found["static"], rel=0.01)
    real_config(ALL).save_pretrained(tmp_path)
    launch = Launch.from_deepspeed(DEEPSPEED_SPREAD, processes=8, bytes_per_weight=2, expert_parallel=8)
    planned = memory(model_size(str(tmp_path), None), launch, tokens, recompute)
    assert planned.total == pytest.approx(at_full_depth(spread, "peak", tokens, recompute), rel=0.05)


def test_spread_experts_exchange_what_is_planned(spread: Simulated) -> None:
    """In both micro-steps hidden states; once in the step gradients of all other weights, and these weights."""
    for found in spread.values():
        for kind in ("gathered", "reduced", "exchanged", "validation_gathered", "validation_exchanged"):
            assert found[kind] == pytest.approx(found[f"planned_{kind}"], rel=0.001), kind
        assert found["validation_reduced"] == 0


def test_the_simulation_gives_what_was_measured_on_a_gpu(simulated: Simulated) -> None:
    for figure, measured in MEASURED.items():
        assert at_full_depth(simulated, figure, 8192, recompute=True) == pytest.approx(measured, rel=0.01)


def test_without_recomputation_gathered_experts_stay(simulated: Simulated) -> None:
    """128 experts of three matrices in 16 bits, 1.125 GiB a layer, besides what ZeRO-3 and activations take."""
    per_layer = {
        case: (simulated[MORE, *case]["peak"] - simulated[FEW, *case]["peak"]) / (MORE - FEW) for case in CASES
    }
    static = (simulated[MORE, *CASES[0]]["static"] - simulated[FEW, *CASES[0]]["static"]) / (MORE - FEW)
    # Activations are proportional to tokens, so without them is where a line through both lengths meets 0.
    without_tokens = per_layer[2048, False] - (per_layer[8192, False] - per_layer[2048, False]) / 3
    assert without_tokens - static == pytest.approx(128 * 3 * 2048 * 768 * 2 / 2**30, rel=0.02)


@pytest.mark.parametrize(("tokens", "recompute"), CASES)
def test_gradients_are_reduced_once_and_weights_gathered_twice(
    simulated: Simulated, tokens: int, recompute: bool
) -> None:
    """Less what the forward pass leaves for the backward pass: the head and the last layers, however many there are.

    They are used again within `stage3_max_reuse_distance`, and are at most `stage3_max_live_parameters`.
    """
    left = []
    for layers in (FEW, MORE):
        found = simulated[layers, tokens, recompute]
        assert found["reduced"] == found["planned_reduced"]
        left.append(found["planned_gathered"] - found["gathered"])
    zero = json.loads(DEEPSPEED.read_text())["zero_optimization"]
    assert 0 < left[0] <= 2 * zero["stage3_max_live_parameters"]
    assert left[1] == pytest.approx(left[0], rel=0.01)
    planned = at_full_depth(simulated, "planned_gathered", tokens, recompute)
    assert at_full_depth(simulated, "gathered", tokens, recompute) == pytest.approx(planned, rel=0.04)


def test_a_validation_gathers_weights_once(simulated: Simulated) -> None:
    """And a part of one layer more, which DeepSpeed gathers ahead for the backward pass that does not come."""
    assert all(found["validation_reduced"] == 0 for found in simulated.values())
    planned = at_full_depth(simulated, "planned_validation_gathered", 8192, True)
    assert at_full_depth(simulated, "validation_gathered", 8192, True) == pytest.approx(planned, rel=0.02)
