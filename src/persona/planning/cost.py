"""What a stage will cost, from its real token counts and a stated model of the hardware, before it is trained.

Counts (parameters, tokens, steps, bytes of weights and optimizer) are exact; micro-steps and computed tokens are
counted on the first steps of an epoch. Seconds and the memory of activations are estimates: a roofline with assumed
utilisation, and the formulas beside them. None of the estimates was compared with a GPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from persona.modeling.loss import CHUNK
from persona.modeling.packing import RowPlan, TokenTable, plan_rows
from persona.planning.settings import Hardware
from persona.training.engine import sharing_explained
from persona.training.loop import step_targets
from persona.training.settings import Lora, Optimization, Schedule

GIB = 2**30
COUNTED_STEPS = 1000  # micro-steps and computed tokens are counted on so many steps of the first epoch


@dataclass(frozen=True)
class ModelSize:
    """Counted on the model's code without weights (meta device)."""

    parameters: int
    active_parameters: int  # that a token goes through: experts by the share that is chosen, embeddings not
    head_parameters: int
    trained_parameters: int
    layers: int
    hidden_size: int
    attention_width: int
    expert_width: int
    vocabulary: int


@dataclass(frozen=True)
class Launch:
    """How a training is spread: what the DeepSpeed file and the recipe say."""

    processes: int
    zero_stage: int
    offload_optimizer: bool
    max_live_parameters: int
    bucket_parameters: int
    bytes_per_weight: int

    @classmethod
    def from_deepspeed(cls, file: Path, processes: int, bytes_per_weight: int) -> Launch:
        zero = json.loads(file.read_text(encoding="utf-8"))["zero_optimization"]
        return cls(
            processes=processes,
            zero_stage=zero["stage"],
            offload_optimizer="offload_optimizer" in zero,
            max_live_parameters=int(zero.get("stage3_max_live_parameters", 1e9)),
            bucket_parameters=int(zero.get("reduce_bucket_size", 5e8)),
            bytes_per_weight=bytes_per_weight,
        )


def model_size(path: str, lora: Lora | None) -> ModelSize:
    """Count a model's parameters from its config alone."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    share = getattr(config, "num_experts_per_tok", 1) / (getattr(config, "num_experts", None) or 1)
    named = list(model.named_parameters())
    head = model.lm_head.weight.numel()
    adapters = sum(
        lora.r * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if lora and isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in lora.target_modules
    )
    total = sum(p.numel() for _, p in named)
    # A table of embeddings is looked up, not multiplied; the head is counted apart.
    body = [(name, p) for name, p in named if "embed_tokens" not in name and "lm_head" not in name]
    width = getattr(config, "moe_intermediate_size", None)
    return ModelSize(
        parameters=total,
        active_parameters=round(sum(p.numel() * (share if ".experts." in name else 1) for name, p in body)),
        head_parameters=head,
        trained_parameters=adapters if lora else total,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        attention_width=config.num_attention_heads * config.head_dim,
        expert_width=width * config.num_experts_per_tok if width else config.intermediate_size,
        vocabulary=config.vocab_size,
    )


@dataclass(frozen=True)
class Memory:
    """GiB a process at the largest row."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    loss: float

    @property
    def total(self) -> float:
        return float(sum(self.__dict__.values()))


def memory(size: ModelSize, launch: Launch, max_tokens: int, recompute: bool) -> Memory:
    """Memory of one process.

    Weights and gradients take `bytes_per_weight` each and the optimizer 12 bytes a trained parameter (float32 copy
    and two moments), divided as ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) divides them at this stage.
    Activations: of each layer its input alone if they are recomputed, and one layer in full: about
    16 hidden + 4 attention + 5 expert widths a token.
    """
    ranks, element = launch.processes, launch.bytes_per_weight
    shared = {stage: 1 if launch.zero_stage < stage else ranks for stage in (1, 2, 3)}
    layer = max_tokens * element * (16 * size.hidden_size + 4 * size.attention_width + 5 * size.expert_width)
    kept = max_tokens * element * size.hidden_size * size.layers
    gathered = min(size.parameters, launch.max_live_parameters) * element if launch.zero_stage == 3 else 0
    bucket = min(size.trained_parameters, launch.bucket_parameters) * element
    on_device = 0 if launch.offload_optimizer else 12
    return Memory(
        weights=size.parameters * element / shared[3] / GIB,
        gradients=size.trained_parameters * element / shared[2] / GIB,
        optimizer=size.trained_parameters * on_device / shared[1] / GIB,
        gathered=(gathered + bucket) / GIB,
        activations=(kept + layer if recompute else layer * size.layers) / GIB,
        # Logits of a chunk, their softmax and its gradient, float32; the test of the loss counts them.
        loss=3 * CHUNK * size.vocabulary * 4 / GIB,
    )


@dataclass(frozen=True)
class Work:
    """What some rows compute: `lengths[i]` tokens of sample i, `shared[i]` of which another sample computes."""

    lengths: np.ndarray
    shared: np.ndarray
    completion_tokens: int

    @classmethod
    def of(cls, table: TokenTable, rows: list[RowPlan]) -> Work:
        members = np.array([sample for row in rows for sample in row.members])
        shared = np.array([n for row in rows for n in row.shared])
        return cls(table.computed_lengths[members], shared, int(table.completion_lengths[members].sum()))

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return int(self.lengths.sum() - self.shared.sum())


def rows_of(table: TokenTable, steps: list[np.ndarray], schedule: Schedule, processes: int) -> tuple[Work, int]:
    """What some steps compute, and the sum of their micro-steps."""
    planned = [
        plan_rows(table, step, processes, schedule.max_tokens_per_gpu, schedule.prefix_sharing) for step in steps
    ]
    rows = [row for ranks in planned for of_rank in ranks for row in of_rank]
    return Work.of(table, rows), sum(len(ranks[0]) for ranks in planned)


@dataclass(frozen=True)
class Epoch:
    """The first epoch: its steps, and what so many of them that were counted compute."""

    steps: int
    counted: int
    work: Work
    micro_steps: float  # a step

    @classmethod
    def of(cls, table: TokenTable, schedule: Schedule, processes: int) -> Epoch:
        steps = step_targets(table.users, schedule, epoch=0)
        counted = steps[:COUNTED_STEPS]
        work, micro_steps = rows_of(table, counted, schedule, processes)
        return cls(len(steps), len(counted), work, micro_steps / len(counted))

    @property
    def computed_tokens(self) -> int:
        return round(self.work.tokens / self.counted * self.steps)


def flops(size: ModelSize, work: Work, recompute: bool) -> float:
    """Floating point operations of forward and backward.

    2 a multiply-add, once forward, twice backward, once more if recomputed; attention of a document of n tokens is
    n^2 / 2 scores of `attention_width` multiply-adds, twice (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, app. B).
    The head sees completion tokens alone; its chunks are always recomputed.
    """
    passes = 4 if recompute else 3
    body = 2.0 * size.active_parameters * work.tokens
    squares = float((work.lengths.astype(np.float64) ** 2 - work.shared.astype(np.float64) ** 2).sum())
    attention = 2.0 * size.layers * size.attention_width * squares
    return passes * (body + attention) + 4 * 2.0 * size.head_parameters * work.completion_tokens


def step_seconds(
    size: ModelSize, launch: Launch, hardware: Hardware, flops_a_step: float, micro_steps: float
) -> tuple[float, float]:
    """Seconds of compute and of traffic an optimizer step; they overlap, so a step takes the longer one.

    A ring moves (ranks - 1) / ranks of what it gathers or reduces. ZeRO-3 gathers the weights in forward and in
    backward and reduces the gradients, every micro-step; below stage 3 gradients are reduced and weights gathered once.
    """
    compute = flops_a_step / (launch.processes * hardware.peak_tflops * 1e12 * hardware.utilisation)
    compute += micro_steps * hardware.micro_step_overhead_s
    weights, gradients = (n * launch.bytes_per_weight for n in (size.parameters, size.trained_parameters))
    moved = micro_steps * (2 * weights + gradients) if launch.zero_stage == 3 else micro_steps * gradients + gradients
    share = (launch.processes - 1) / launch.processes
    return compute, moved * share / (hardware.interconnect_gb_s * 1e9)


def plan_stage(
    tokens: Path,
    val_tokens: Path,
    model: str,
    deepspeed: Path,
    optimization: Optimization,
    schedule: Schedule,
    processes: int,
    bytes_per_weight: int,
    hardware: Hardware,
) -> dict[str, Any]:
    """All figures of one stage."""
    table, val = TokenTable.read(tokens), TokenTable.read(val_tokens)
    size = model_size(model, optimization.lora)
    launch = Launch.from_deepspeed(deepspeed, processes, bytes_per_weight)
    recompute = optimization.gradient_checkpointing
    epoch = Epoch.of(table, schedule, processes)
    is_by_user = schedule.batch_by == "user"
    by_user = epoch if is_by_user else Epoch.of(table, schedule.model_copy(update={"batch_by": "user"}), processes)
    flops_a_step = flops(size, epoch.work, recompute) / epoch.counted
    compute, traffic = step_seconds(size, launch, hardware, flops_a_step, epoch.micro_steps)
    val_work, val_rows = rows_of(val, [np.arange(len(val))], schedule, processes)
    # Validation is the forward pass alone, and one gathering of the weights.
    val_seconds = max(step_seconds(size, launch, hardware, flops(size, val_work, False) / 3, val_rows))
    epoch_hours = (max(compute, traffic) * epoch.steps + val_seconds) / 3600
    needed = memory(size, launch, schedule.max_tokens_per_gpu, recompute)
    checkpoint = size.trained_parameters * (12 + bytes_per_weight)
    export = size.trained_parameters * bytes_per_weight
    return {
        "samples": len(table),
        "prefix_sharing": sharing_explained(schedule.prefix_sharing, optimization.lora),
        "tokens_per_epoch": int(table.lengths.sum()),
        "computed_tokens_per_epoch": epoch.computed_tokens,
        "computed_tokens_per_epoch_by_user": by_user.computed_tokens,
        "loss_tokens_per_epoch": int(table.completion_lengths.sum()),
        "steps_per_epoch": epoch.steps,
        "micro_steps_per_step": epoch.micro_steps,
        "parameters": size.parameters,
        "active_parameters": size.active_parameters + size.head_parameters,
        "trained_parameters": size.trained_parameters,
        "memory_gib": {**needed.__dict__, "total": needed.total, "available": hardware.memory_gib},
        "fits": needed.total <= hardware.memory_gib,
        "advice": nearest_that_fits(size, launch, hardware, schedule, recompute, int(table.lengths.max())),
        "compute_seconds_per_step": compute,
        "traffic_seconds_per_step": traffic,
        "seconds_per_step": max(compute, traffic),
        "hours_per_epoch": epoch_hours,
        "max_epochs": schedule.max_epochs,
        "gpu_hours_per_epoch": epoch_hours * processes,
        # The old ones go when the new ones are whole, so two of each are there for a moment.
        "disk_gb": 2 * (checkpoint + export) / 1e9,
    }


def nearest_that_fits(
    size: ModelSize, launch: Launch, hardware: Hardware, schedule: Schedule, recompute: bool, longest: int
) -> str:
    """The nearest setting that fits; empty if this one does."""

    def fits(launch: Launch, max_tokens: int, recompute: bool) -> bool:
        return memory(size, launch, max_tokens, recompute).total <= hardware.memory_gib

    budget = schedule.max_tokens_per_gpu
    if fits(launch, budget, recompute):
        return ""
    if fits(launch, budget, True):
        return "set gradient_checkpointing: true"
    smaller = [budget >> n for n in range(1, 20) if budget >> n >= longest]
    for candidate in smaller:
        if fits(launch, candidate, True):
            return f"set gradient_checkpointing: true and max_tokens_per_gpu: {candidate}"
    if fits(replace(launch, offload_optimizer=True), budget, True):
        return "take a DeepSpeed file with optimizer offload and set gradient_checkpointing: true"
    for factor in (2, 4, 8, 16):
        if fits(replace(launch, processes=factor * launch.processes), budget, True):
            return f"take {factor * launch.processes} GPUs and set gradient_checkpointing: true"
    return "no setting of these fits: train adapters (lora), or take a smaller model"
