"""What an engine trains, against what the plan counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from persona.modeling.processes import process_group
from persona.modeling.tiny import write_tiny_model
from persona.planning.cost import model_size
from persona.training.engine import build_engine
from persona.training.settings import Lora, Optimization

DEEPSPEED = Path(__file__).parents[3] / "config" / "deepspeed"
ATTENTION, EXPERTS = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]


def optimized(engine: Any, stage: int) -> int:
    """Parameters that the optimizer of ZeRO changes."""
    zero = engine.optimizer
    groups = zero.fp16_groups if stage == 3 else zero.bit16_groups
    return sum(getattr(p, "ds_numel", p.numel()) for group in groups for p in group)


@pytest.mark.parametrize(
    ("names", "file", "stage"),
    [
        (ATTENTION, "zero2", 2),
        (ATTENTION, "zero3_cpu", 3),
        (EXPERTS, "zero2", 2),
        ([*ATTENTION, *EXPERTS], "zero2", 2),
        (None, "zero2", 2),
        (None, "zero3_cpu", 3),
    ],
    ids=["attention, ZeRO-2", "attention, ZeRO-3", "experts", "attention and experts", "all, ZeRO-2", "all, ZeRO-3"],
)
def test_the_plan_counts_what_the_engine_trains(tmp_path: Path, names: list[str] | None, file: str, stage: int) -> None:
    write_tiny_model(["a film", "一部电影"], tmp_path / "base", 300, 32, num_hidden_layers=2, num_experts=4, seed=0)
    lora = Lora(r=3, alpha=6, dropout=0.0, target_modules=names) if names else None
    settings = Optimization(lora=lora)
    with process_group():
        engine = build_engine(str(tmp_path / "base"), DEEPSPEED / f"{file}.json", settings, 1, 1, prefix_sharing=True)
        size = model_size(str(tmp_path / "base"), lora)
        assert optimized(engine, stage) == size.trained_parameters
        assert (size.trained_parameters == size.parameters) is (lora is None)
