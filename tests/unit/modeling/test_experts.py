"""The check of experts that no token chose, where it can be run: on the CPU."""

from __future__ import annotations

import pytest
import torch

from persona.modeling import experts
from persona.modeling.experts import empty_experts_get_no_gradient


def test_experts_without_tokens_get_no_gradient_on_the_cpu() -> None:
    assert empty_experts_get_no_gradient(torch.device("cpu"))


def test_a_gradient_where_there_are_no_tokens_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        """All experts get a gradient."""

        @staticmethod
        def grouped_mm(tokens: torch.Tensor, weights: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
            return (weights.sum() + tokens.sum())[None]

    monkeypatch.setattr(experts, "functional", Wrong)
    assert not empty_experts_get_no_gradient(torch.device("cpu"))
