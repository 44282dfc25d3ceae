"""What an engine trains, against what the plan counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from persona.modeling.processes import process_group
from persona.modeling.tiny import write_tiny_model
from persona.planning.cost import model_size
from persona.training.engine import build_engine, learning_rate_share
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


def shares(kind: str, n_warmup: int, n_steps: int) -> list[float]:
    return [learning_rate_share(kind, step, n_warmup, n_steps) for step in range(n_steps)]


def test_the_learning_rate_rises_from_the_first_step_on() -> None:
    assert shares("constant_with_warmup", 4, 7) == [0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert shares("constant_with_warmup", 0, 3) == [1, 1, 1]
    assert shares("linear", 2, 6) == [0.5, 1, 1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["constant_with_warmup", "cosine", "linear"])
@pytest.mark.parametrize("n_warmup", [0, 3, 20])
def test_after_the_rise_the_learning_rate_is_that_of_transformers(kind: str, n_warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=n_warmup, num_training_steps=20)
    for step, share in enumerate(shares(kind, n_warmup, 20)):
        assert share > 0
        assert step < n_warmup or share == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
