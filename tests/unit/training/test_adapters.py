"""Which weights adapters are added to, how many there are, and names that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from persona.errors import PersonaError
from persona.training.adapters import add_adapters
from persona.training.settings import Lora
from tests.unit.modeling.samples import new_model

HIDDEN, EXPERTS, WIDTH, LAYERS, RANK = 32, 4, 16, 2, 3


def adapted(*names: str, seed: int = 1) -> Any:
    model = new_model()
    add_adapters(model, Lora(r=RANK, alpha=6, dropout=0.0, target_modules=list(names)), seed)
    return model


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_adapters_of_the_experts_are_counted() -> None:
    """Each expert has matrices of its own: of the fused gate and up projection, of twice the rank, and of down."""
    found = sum(p.numel() for p in trained(adapted("gate_proj", "up_proj", "down_proj")).values())
    gate_up = 2 * RANK * (HIDDEN + 2 * WIDTH)
    down = RANK * (WIDTH + HIDDEN)
    assert found == LAYERS * EXPERTS * (gate_up + down)


def test_adapters_start_from_the_seed() -> None:
    first, again, other = (trained(adapted("q_proj", "v_proj", seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["q_proj", "lm_head"], "lm_head cannot have adapters here"),
        (["q_proj", "gate_up_proj"], "the model has no module named gate_up_proj"),
        (["q_proj", "q_porj"], "the model has no module named q_porj"),
        (["gate_proj"], "lora.target_modules: Cannot convert PEFT target.s. gate_proj without also targeting up_proj"),
        (["q_porj"], "lora.target_modules: .*q_porj"),
    ],
)
def test_a_name_without_effect_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(PersonaError, match=message) as error:
        adapted(*names)
    assert "\n" not in str(error.value)


def test_adapters_of_experts_that_are_partitioned_are_refused() -> None:
    model = new_model()
    next(model.parameters()).ds_id = 0  # type: ignore[attr-defined]
    with pytest.raises(PersonaError, match="ZeRO-3 partitions them; take the DeepSpeed file zero2"):
        add_adapters(model, Lora(r=RANK, alpha=6, dropout=0.0, target_modules=["down_proj"]), 1)
