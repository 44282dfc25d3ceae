"""Seconds of the phases, counted by hand for simple figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from persona.modeling.packing import TokenTable
from persona.planning.cost import Launch
from persona.planning.phases import (
    STAR_TOKENS,
    disk_gb,
    host_memory_gb,
    least_epochs,
    scored_tokens,
    training_phases,
    validations_per_epoch,
)
from persona.planning.settings import Hardware
from persona.training.settings import Schedule

HARDWARE = Hardware(start_s=5.0, load_gb_s=0.5, disk_write_gb_s=0.25, host_copy_gb_s=2.0)
LAUNCH = Launch(processes=8, zero_stage=3, offload_optimizer=False, max_live_parameters=0, prefetch_parameters=0,
                bucket_parameters=0, reduces_to_all=True, bytes_per_weight=2)  # fmt: skip
SIZE: Any = SimpleNamespace(parameters=1_000_000_000, trained_parameters=1_000_000_000)
EPOCH: Any = SimpleNamespace(steps=100)


def schedule(**changes: Any) -> Schedule:
    return Schedule(samples_per_step=64, max_epochs=50, early_stopping_patience=3).model_copy(update=changes)


def phases(epochs: float, **changes: Any) -> dict[str, float]:
    return training_phases(epochs, EPOCH, 2.0, 10.0, SIZE, LAUNCH, HARDWARE, schedule(**changes))


def test_phases_of_a_training_without_checkpoints() -> None:
    assert phases(4.0) == {
        "loading": 5.0 + 2.0 / 0.5,
        "steps": 800.0,
        "validation": 40.0,
        "saving": 0.0,
        "export": 2.0 / 0.25,
    }


def test_checkpoints_come_by_time_or_by_steps() -> None:
    waited = (12.0 + 2.0) / 8 / 2.0  # GB of each process over GB/s
    assert phases(20.0)["saving"] == 2 * waited  # 4,200 s, every 1,800 s
    assert phases(20.0, checkpoint_minutes=0.0)["saving"] == pytest.approx(0.03 * 4200, rel=0.01)
    assert phases(4.0, checkpoint_every_steps=100)["saving"] == 4 * waited


def test_validations_within_an_epoch_count_for_patience() -> None:
    assert validations_per_epoch(schedule(), 100) == 1
    assert validations_per_epoch(schedule(validate_every_steps=40), 100) == 3  # after 40, 80 and 100
    assert validations_per_epoch(schedule(validate_every_steps=50), 100) == 2
    assert least_epochs(schedule(), 100) == 4
    assert least_epochs(schedule(validate_every_steps=50), 100) == 2
    assert least_epochs(schedule(max_epochs=2), 100) == 2


def test_disk_and_host_memory() -> None:
    assert disk_gb(SIZE, LAUNCH, schedule(), 1799.0) == {"checkpoints": 0.0, "model": 2.0}
    assert disk_gb(SIZE, LAUNCH, schedule(), 1800.0) == {"checkpoints": 28.0, "model": 2.0}
    assert host_memory_gb(SIZE, LAUNCH, 4) == {"best weights": 1.0, "copies for a checkpoint": 7.0}


def samples(*texts: tuple[list[int], list[int]]) -> TokenTable:
    ids = [prompt + text for prompt, text in texts]
    return TokenTable(
        ids=np.concatenate(ids).astype(np.int32),
        starts=np.cumsum([0, *map(len, ids)]),
        prompt_lengths=np.array([len(prompt) for prompt, _ in texts], dtype=np.int32),
        users=np.arange(len(texts)),
    )


def test_scoring_computes_each_prompt_once_and_rendered_prompts_but_for_what_they_share() -> None:
    val, test = samples(([1, 2, 3], [4])), samples(([1, 2], [5, 6, 7]), ([1, 3], [5, 8, 9]))
    once = 4 + 2 * 5 + 2 * 5 + 2 * STAR_TOKENS
    # Each of the two texts of 3 tokens under the prompt of the other one's user.
    assert scored_tokens(val, test, test, None, 2) == once + 6
    # With prompts of their own for one text and for both: what begins like another prompt is not computed again.
    rendered = samples(([1, 3, 4], [5, 6, 7]))
    shared = 1  # of the own prompts: their first token
    assert scored_tokens(val, test, test, rendered, 2) == once - shared + 3 + 4
    rendered = samples(([1, 3, 4], [5, 6, 7]), ([1, 2, 4], [5, 8, 9]))
    assert scored_tokens(val, test, test, rendered, 2) == once - shared + 4 + 4
