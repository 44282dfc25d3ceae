"""The two ways to divide a mixture of experts among processes: weights travel to tokens, or tokens to weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from persona.planning.cost import Epoch, Launch, ModelSize, epoch_step, memory
from persona.planning.settings import Hardware
from persona.training.settings import Schedule

ZERO3, SPREAD = "zero3", "expert_parallel"


def compare_layouts(
    size: ModelSize,
    launch: Launch,
    deepspeed: Path,
    hardware: Hardware,
    epoch: Epoch,
    schedule: Schedule,
    recompute: bool,
) -> dict[str, Any] | None:
    """The figures of both layouts for all weights of a model on several processes, and which is advised and why.

    None where there is no choice: no experts, one process, adapters, or another layout.

    Args:
        launch: that of the stage, which has one of the two layouts.
        deepspeed: its file; the one of the other layout is beside it.
    """
    degree = math.gcd(size.experts, launch.processes)
    is_spread = launch.expert_parallel > 1
    all_trained = size.trained_parameters == size.parameters
    is_zero3 = launch.zero_stage == 3 and not launch.offload_optimizer
    if degree == 1 or not size.expert_layers or not all_trained or not (is_spread or is_zero3):
        return None
    end = "_cpu.json" if deepspeed.stem.endswith("_cpu") else ".json"
    other = Launch.from_deepspeed(
        deepspeed.with_name(("zero3" if is_spread else "zero1") + end),
        launch.processes,
        launch.bytes_per_weight,
        1 if is_spread else degree,
    )
    layouts = {ZERO3: other, SPREAD: launch} if is_spread else {ZERO3: launch, SPREAD: other}
    figures = {}
    for name, each in layouts.items():
        step, traffic = epoch_step(size, each, hardware, epoch, recompute)
        needed = memory(size, each, schedule.max_tokens_per_gpu, recompute).total
        figures[name] = {
            "gb_moved_per_step": traffic.moved(each) / 1e9,
            "traffic_seconds_per_step": step.traffic + step.exchange,
            "seconds_per_step": step.total,
            "bound_by": step.bound_by,
            "memory_gib": needed,
            "fits": needed <= hardware.memory_gib,
        }
    return {"degree": layouts[SPREAD].expert_parallel, "figures": figures, **_advice(figures)}


def _advice(figures: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The layout that fits; of two that do the faster one; of two that are as fast the one that moves less."""
    zero3, spread = figures[ZERO3], figures[SPREAD]
    if zero3["fits"] != spread["fits"]:
        return {"advised": ZERO3 if zero3["fits"] else SPREAD, "reason": "because the other does not fit into memory"}
    advised = min(figures, key=lambda name: (figures[name]["seconds_per_step"], figures[name]["gb_moved_per_step"]))
    if math.isclose(zero3["seconds_per_step"], spread["seconds_per_step"]):
        return {"advised": advised, "reason": "because it moves fewer bytes; a step takes as long"}
    return {"advised": advised, "reason": "because its steps are faster"}
