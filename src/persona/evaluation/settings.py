"""Settings of the evaluation, without torch."""

from __future__ import annotations

import math
from typing import Literal

from persona.settings import Count, Name, Positive, Seed, Settings, Text

GREEDY, SAMPLE = "greedy", "sample"  # how a text is written
UNTRAINED = "untrained"  # in place of a stage: its model before any training, with its prompts
BATCH = 32  # texts that are written at once, at most
SHARES = 8  # the batches are a multiple, so that so many processes have as many each


class GenerationSettings(Settings):
    """The texts that a model writes."""

    n_targets: Count = 200
    """Test targets for which texts are written."""
    n_samples: Count = 1
    """Sampled texts per target, besides the greedy one."""
    max_new_tokens: Count = 128
    """Tokens of a text at most."""
    temperature: Positive = 1.0
    """Temperature of the sampled texts."""
    seed: Seed = 42
    """Seed of the choice of targets and of sampling."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What writes the texts. `vllm` is meant for GPUs, where it was not tried yet, and samples by other random numbers;
    scores are computed the same way with both. See [serving.md](../docs/serving.md)."""
    vllm_python: Text = ".venv/vllm/bin/python"
    """The Python interpreter of the environment that has vLLM, whose packages differ from those of the training."""


def n_batches(n_texts: int) -> int:
    """Batches in which texts are written. It does not depend on the number of processes, and so no text does."""
    return min(n_texts, SHARES * math.ceil(n_texts / BATCH / SHARES))


class Contrast(Settings):
    """A planned comparison: a stage minus another one."""

    stage: Name
    """The stage."""
    against: Name
    """The stage that is subtracted, or `untrained`: the stage's own model and prompts before any training."""
    metric: Literal["nll", "swap_gap"] = "nll"
    """What is compared, in nats per character."""
    margin: Positive | None = None
    """How large a difference, in nats per character, still counts as none. With it the report says whether the stages
    are equivalent (two one-sided tests at 5 %); without it nothing is said to be no different."""
