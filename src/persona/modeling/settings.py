"""Settings of the tiny model, without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from persona.settings import Count, Seed, Settings


class TinyModel(Settings):
    """A small, randomly initialised Qwen3-MoE with a tokenizer of its own."""

    vocab_size: Count = 2048
    """Tokens of its vocabulary."""
    hidden_size: Annotated[int, Field(ge=32, multiple_of=32)] = 64
    """Width of its hidden states."""
    num_hidden_layers: Count = 1
    """Its layers."""
    num_experts: Annotated[int, Field(ge=2)] = 8
    """Experts per layer; each token uses two."""
    seed: Seed = 0
    """Seed of its weights."""
