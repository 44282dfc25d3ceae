"""The plan of one stage: what it will compute, how long its phases take, and what memory and disk it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persona.base_model import cannot_be_spread
from persona.errors import PersonaError
from persona.modeling.packing import PartOfTokens, TokenTable
from persona.planning.cost import (
    Epoch,
    Launch,
    computed_tokens_by_user,
    counted_samples,
    epoch_step,
    larger_steps,
    memory,
    model_size,
    nearest_that_fits,
    validation_seconds,
)
from persona.planning.layouts import compare_layouts
from persona.planning.phases import phases_of
from persona.planning.settings import Hardware, PlannedStage
from persona.training.engine import sharing_explained

# What is counted from tokens, settings and the model's code alone.
COUNTED = [
    "samples", "prefix_sharing", "tokens_per_epoch", "computed_tokens_per_epoch", "computed_tokens_per_epoch_by_user",
    "loss_tokens_per_epoch", "steps_per_epoch", "micro_steps_per_step", "max_tokens_per_gpu", "parameters",
    "active_parameters", "trained_parameters", "tokens_per_micro_step", "max_epochs",
]  # fmt: skip


def plan_stage(stage: PlannedStage, hardware: Hardware | None) -> dict[str, Any]:
    """All figures of one stage; of unknown hardware those in `COUNTED`."""
    if hardware is None:
        plan = plan_stage(stage, Hardware())
        return {name: plan[name] for name in COUNTED}
    schedule, processes = stage.schedule, stage.processes
    # Of the training samples only those of the counted steps: all of them may be larger than the memory.
    table = PartOfTokens.read_some(Path(stage.tokens), lambda users: counted_samples(users, schedule))
    val = TokenTable.read(Path(stage.val_tokens))
    size = model_size(stage.model, stage.optimization.lora)
    spread = stage.optimization.expert_parallel
    launch = Launch.from_deepspeed(Path(stage.deepspeed), processes, stage.bytes_per_weight, spread)
    if spread > 1 and (problem := cannot_be_spread(size.experts, spread)):
        raise PersonaError(f"{stage.model}: {problem}")
    recompute = stage.optimization.gradient_checkpointing
    epoch = Epoch.of(table, schedule, processes)
    step, traffic = epoch_step(size, launch, hardware, epoch, recompute)
    val_seconds = validation_seconds(val, schedule, size, launch, hardware)
    epoch_hours = (step.total * epoch.steps + val_seconds) / 3600
    needed = memory(size, launch, schedule.max_tokens_per_gpu, recompute)
    return {
        "samples": len(table),
        "prefix_sharing": sharing_explained(schedule.prefix_sharing, stage.optimization.lora),
        "tokens_per_epoch": int(table.lengths.sum()),
        "computed_tokens_per_epoch": epoch.computed_tokens,
        "computed_tokens_per_epoch_by_user": computed_tokens_by_user(epoch, table, schedule, processes),
        "loss_tokens_per_epoch": int(table.completion_lengths.sum()),
        "steps_per_epoch": epoch.steps,
        "micro_steps_per_step": epoch.micro_steps,
        "max_tokens_per_gpu": schedule.max_tokens_per_gpu,
        "parameters": size.parameters,
        "active_parameters": size.active_parameters + size.head_parameters,
        "trained_parameters": size.trained_parameters,
        "memory_gib": {**needed.__dict__, "total": needed.total, "available": hardware.memory_gib},
        "fits": needed.total <= hardware.memory_gib,
        "advice": nearest_that_fits(size, launch, hardware, schedule, recompute, int(table.lengths.max())),
        "compute_seconds_per_step": step.compute,
        "traffic_seconds_per_step": step.traffic,
        "host_seconds_per_step": step.host,
        "exchange_seconds_per_step": step.exchange,
        "seconds_per_step": step.total,
        "bound_by": step.bound_by,
        "gb_moved_per_step": traffic.moved(launch) / 1e9,
        "layouts": compare_layouts(size, launch, Path(stage.deepspeed), hardware, epoch, schedule, recompute),
        "tokens_per_micro_step": epoch.work.tokens / epoch.counted / epoch.micro_steps / processes,
        "larger_steps": larger_steps(table, schedule, size, launch, hardware, recompute),
        "hours_per_epoch": epoch_hours,
        "max_epochs": schedule.max_epochs,
        "gpu_hours_per_epoch": epoch_hours * processes,
        **phases_of(stage, val, epoch, step.total, val_seconds, size, launch, hardware),
    }
