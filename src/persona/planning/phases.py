"""How long the phases of a stage take, from its command to its scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from persona.evaluation.settings import BATCH, n_batches
from persona.modeling.packing import TokenTable
from persona.modeling.prefix_tree import PrefixOrder
from persona.planning.cost import (
    FORWARD,
    Epoch,
    Launch,
    ModelSize,
    Work,
    flops,
    forward_traffic,
    spread_parameters,
    step_seconds,
)
from persona.planning.settings import Hardware, PlannedStage
from persona.training.settings import Schedule

STAR_TOKENS = 16  # of the question for the stars and its five answers, about


def training_phases(
    epochs: float,
    epoch: Epoch,
    step: float,
    validation: float,
    size: ModelSize,
    launch: Launch,
    hardware: Hardware,
    schedule: Schedule,
) -> dict[str, float]:
    """Seconds of the phases of a training of so many epochs.

    Args:
        step, validation: seconds of one step and of one validation.
    """
    weights = size.parameters * launch.bytes_per_weight / 1e9
    trained = size.trained_parameters * launch.bytes_per_weight / 1e9
    seconds = {
        "loading": hardware.start_s + weights / hardware.load_gb_s,
        "steps": epochs * epoch.steps * step,
        "validation": epochs * validations_per_epoch(schedule, epoch.steps) * validation,
    }
    state = (12 + launch.bytes_per_weight) * saved_parameters(size, launch) / 1e9 / launch.processes
    waited = state / hardware.host_copy_gb_s
    interval = max(60 * schedule.checkpoint_minutes, waited / schedule.checkpoint_share)
    checkpoints = math.floor((seconds["steps"] + seconds["validation"]) / interval) if interval else 0
    if schedule.checkpoint_every_steps:
        checkpoints += math.floor(epochs * epoch.steps / schedule.checkpoint_every_steps)
    return seconds | {"saving": checkpoints * waited, "export": trained / hardware.disk_write_gb_s}


def validations_per_epoch(schedule: Schedule, n_steps: int) -> int:
    """Validations of an epoch: at its end, and within it."""
    every = schedule.validate_every_steps
    return 1 + ((n_steps - 1) // every if every else 0)


def least_epochs(schedule: Schedule, n_steps: int) -> float:
    """Epochs of a training whose first validation stays the best: early stopping ends it no sooner."""
    validations = 1 + schedule.early_stopping_patience
    return min(schedule.max_epochs, validations / validations_per_epoch(schedule, n_steps))


def evaluation_phases(
    stage: PlannedStage, val: TokenTable, size: ModelSize, launch: Launch, hardware: Hardware
) -> dict[str, float]:
    """Seconds of scoring the val and test targets and of writing texts, on the processes of one machine.

    Each process holds the whole model, or its experts of it, and computes its share.
    """
    processes = stage.processes_per_node
    degree = math.gcd(launch.expert_parallel, processes)
    test, empty = (TokenTable.read(Path(path)) for path in (stage.test_tokens, stage.empty_tokens))
    rendered = TokenTable.read(Path(stage.impostor_tokens)) if stage.impostor_tokens else None
    tokens = scored_tokens(val, test, empty, rendered, stage.candidates)
    rows = math.ceil(tokens / stage.schedule.max_tokens_per_gpu)
    length = int(test.lengths.mean())
    lengths = np.full(math.ceil(tokens / length), length)
    whole = replace(launch, processes=processes, zero_stage=0, expert_parallel=degree)
    forward = FORWARD * flops(size, Work(lengths, np.zeros_like(lengths), tokens), recompute=False)
    traffic = forward_traffic(size, whole, rows, tokens / processes)
    scoring = step_seconds(size, whole, hardware, forward, rows / processes, traffic, share=FORWARD)
    reading = hardware.disk_read_gb_s if degree == 1 else hardware.load_gb_s
    settings = stage.generation
    batches = math.ceil(n_batches(settings.n_targets * (1 + settings.n_samples)) / processes)
    return {
        # Where one job evaluates all stages, its start is of no stage.
        "loading for evaluation": (0.0 if stage.evaluated_together else hardware.start_s)
        + size.parameters * launch.bytes_per_weight / 1e9 / reading,
        "scoring": scoring.total,
        "writing texts": batches
        * longest_text(test, settings.max_new_tokens)
        * size.layers
        * hardware.decode_s_per_layer,
    }


def longest_text(test: TokenTable, max_new_tokens: int) -> float:
    """Tokens of the longest text of a batch: as long as the longest of so many real ones, if the model may go on."""
    return min(max_new_tokens, float(np.quantile(test.completion_lengths, 1 - 1 / BATCH)))


def scored_tokens(
    val: TokenTable, test: TokenTable, empty: TokenTable, rendered: TokenTable | None, candidates: int
) -> int:
    """Tokens that scoring computes, nearly: each prompt once, and each test text under the prompts of its block.

    Args:
        rendered: the test texts under prompts that were rendered for impostors; they share much with the own prompts.
    """
    under_others = (candidates - 1) * int(test.completion_lengths.sum())
    under_own = int(test.lengths.sum())
    if rendered is not None:
        under_others = max(0, under_others - int(rendered.completion_lengths.sum()))
        samples = [table[n] for table in (test, rendered) for n in range(len(table))]
        order = PrefixOrder.of(samples, np.arange(len(samples)))
        under_own = int((order.lengths - order.shared).sum())
    return int(val.lengths.sum() + empty.lengths.sum()) + under_own + under_others + STAR_TOKENS * len(empty)


def disk_gb(size: ModelSize, launch: Launch, schedule: Schedule, seconds: float) -> dict[str, float]:
    """GB on the disk: checkpoints while the stage trains, two for a short time, and what is left of it."""
    weights = size.trained_parameters * launch.bytes_per_weight / 1e9
    due = bool(schedule.checkpoint_every_steps) or seconds >= 60 * schedule.checkpoint_minutes
    # The optimizer's state and the best weights; below ZeRO-3 DeepSpeed writes the present weights as well, but not
    # those of spread experts.
    checkpoint = (12 + launch.bytes_per_weight) * saved_parameters(size, launch) / 1e9
    if launch.zero_stage < 3:
        checkpoint += (size.trained_parameters - spread_parameters(size, launch)) * launch.bytes_per_weight / 1e9
    return {"checkpoints": 2 * checkpoint if due else 0.0, "model": weights}


def host_memory_gb(size: ModelSize, launch: Launch, processes_per_node: int) -> dict[str, float]:
    """GB of each machine's memory: the best weights, and the copies from which a checkpoint is written."""
    share = processes_per_node / launch.processes
    saved = saved_parameters(size, launch) / 1e9 * share
    weights = saved * launch.bytes_per_weight
    return {"best weights": weights, "copies for a checkpoint": 12 * saved + weights}


def saved_parameters(size: ModelSize, launch: Launch) -> int:
    """Trained parameters over all processes: of spread experts each group of processes saves its own."""
    groups = launch.processes // launch.expert_parallel
    return size.trained_parameters + (groups - 1) * spread_parameters(size, launch)


def phases_of(
    stage: PlannedStage,
    val: TokenTable,
    epoch: Epoch,
    step: float,
    validation: float,
    size: ModelSize,
    launch: Launch,
    hardware: Hardware,
) -> dict[str, Any]:
    """The phases at the first patience and at most, disk and host memory."""
    evaluation = evaluation_phases(stage, val, size, launch, hardware)

    def phases(epochs: float) -> dict[str, float]:
        training = training_phases(epochs, epoch, step, validation, size, launch, hardware, stage.schedule)
        return {**training, **evaluation}

    least, most = least_epochs(stage.schedule, epoch.steps), float(stage.schedule.max_epochs)
    longest = phases(most)
    return {
        "phases": {
            "at_least": {"epochs": least, "seconds": phases(least)},
            "at_most": {"epochs": most, "seconds": longest},
        },
        "disk_gb": disk_gb(size, launch, stage.schedule, longest["steps"] + longest["validation"]),
        "host_memory_gb": host_memory_gb(size, launch, stage.processes_per_node),
    }
