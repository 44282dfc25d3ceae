"""Estimate the cost of a stage before it is trained, from its token counts and the assumed hardware.

Counts (parameters, tokens, steps, bytes of weights and optimizer) are exact. Micro-steps and computed tokens are
counted on the first steps of an epoch. Seconds and the memory of activations are estimates: a roofline model with an
assumed utilisation, by the formulas in the docstrings. docs/performance.md compares them with a GPU.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from persona.base_model import n_experts
from persona.modeling.loading import load_config
from persona.modeling.loss import CHUNK, head_width
from persona.modeling.packing import RowPlan, TokenTable, plan_rows
from persona.planning.settings import Hardware
from persona.training.adapters import add_adapters
from persona.training.loop import step_targets
from persona.training.settings import Lora, Schedule

GIB = 2**30
# Host's work of a micro-step with spread experts, of what it is under ZeRO-3: measured on a CPU, docs/performance.md.
HOST_WHEN_SPREAD = 0.7
FORWARD = 1 / 3  # share of the forward pass in forward and backward
COUNTED_STEPS = 1000  # steps of the first epoch on which micro-steps and computed tokens are counted,
COUNTED_LARGER_STEPS = 50  # and of epochs with larger steps


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model, counted without loading weights (meta device)."""

    parameters: int
    active_parameters: int  # used per token: the chosen share of the experts, without embeddings
    head_parameters: int
    trained_parameters: int
    expert_parameters: int
    expert_layers: int
    experts: int  # of each of these layers; 1 without a mixture of experts
    largest_parameter: int
    layers: int
    hidden_size: int
    attention_width: int
    expert_width: int  # of all experts that a token chooses
    experts_per_token: int  # 0 without a mixture of experts
    vocabulary: int


@dataclass(frozen=True)
class Launch:
    """How a training is distributed, from the DeepSpeed file and the recipe.

    With `expert_parallel` the DeepSpeed file is about all weights but the experts.
    """

    processes: int
    zero_stage: int
    offload_optimizer: bool
    max_live_parameters: int
    prefetch_parameters: int
    bucket_parameters: int
    reduces_to_all: bool  # below ZeRO-3: gradients are sent to all processes, not only to the one that needs them
    bytes_per_weight: int
    expert_parallel: int = 1

    @classmethod
    def from_deepspeed(cls, file: Path, processes: int, bytes_per_weight: int, expert_parallel: int = 1) -> Launch:
        """Read the DeepSpeed file."""
        zero = json.loads(file.read_text(encoding="utf-8"))["zero_optimization"]
        return cls(
            processes=processes,
            zero_stage=zero["stage"],
            offload_optimizer="offload_optimizer" in zero,
            max_live_parameters=int(zero.get("stage3_max_live_parameters", 1e9)),
            prefetch_parameters=int(zero.get("stage3_prefetch_bucket_size", 5e7)),
            # Below ZeRO-3 one bucket is filled while the other one is reduced.
            bucket_parameters=int(zero.get("reduce_bucket_size", 5e8))
            * (2 if zero["stage"] < 3 and zero.get("overlap_comm") else 1),
            reduces_to_all=bool(zero.get("use_multi_rank_bucket_allreduce", True)),
            bytes_per_weight=bytes_per_weight,
            expert_parallel=expert_parallel,
        )


def model_size(path: str, lora: Lora | None) -> ModelSize:
    """Count a model's parameters, and those of its adapters, from its config alone.

    Raises:
        PersonaError: there is no such model, or see `add_adapters`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    experts = n_experts(config.to_dict())
    share = getattr(config, "num_experts_per_tok", 1) / experts if experts > 1 else 1
    named = list(model.named_parameters())
    head = model.get_output_embeddings().weight
    total = sum(p.numel() for _, p in named)
    # Embeddings are looked up, not multiplied. The head is counted separately.
    apart = {id(head), id(model.get_input_embeddings().weight)}
    body = [(name, p) for name, p in named if id(p) not in apart]
    of_experts = {name: p.numel() for name, p in body if ".experts." in name}
    per_token = config.num_experts_per_tok if experts > 1 else 0
    width = getattr(config, "moe_intermediate_size", None) if experts > 1 else None
    if lora is not None:
        with torch.device("meta"):
            add_adapters(model, lora, seed=0)
    return ModelSize(
        parameters=total,
        active_parameters=round(sum(p.numel() * (share if ".experts." in name else 1) for name, p in body)),
        head_parameters=head.numel(),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        expert_parameters=sum(of_experts.values()),
        expert_layers=len({name.partition(".experts.")[0] for name in of_experts}),
        experts=experts,
        largest_parameter=max(p.numel() for _, p in named),
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        attention_width=config.num_attention_heads * head_width(config),
        expert_width=(width or _inner_width(config)) * max(1, per_token),
        experts_per_token=per_token,
        vocabulary=config.vocab_size,
    )


def _inner_width(config: Any) -> int:
    """Width of the middle of a layer's feed-forward part; GPT-2 leaves it out where it is four times the outer one."""
    return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)


def spread_parameters(size: ModelSize, launch: Launch) -> int:
    """Parameters of experts that are spread over processes."""
    return size.expert_parameters if launch.expert_parallel > 1 else 0


@dataclass(frozen=True)
class Memory:
    """GiB per process with the longest row, at the peak of the backward pass."""

    weights: float
    gradients: float
    optimizer: float
    bucket: float
    gathered: float
    activations: float
    working: float

    @property
    def static(self) -> float:
        """What is held all the time after the first optimizer step."""
        return self.weights + self.gradients + self.optimizer + self.bucket

    @property
    def total(self) -> float:
        """The sum in GiB."""
        return float(sum(vars(self).values()))


def memory(size: ModelSize, launch: Launch, max_tokens: int, recompute: bool) -> Memory:
    """Memory of one process.

    Weights and gradients take `bytes_per_weight` each. The optimizer takes 12 bytes per trained parameter (float32 copy
    and two moments). ZeRO divides them among the processes as its stage says (Rajbhandari et al. 2020,
    arXiv:1910.02054). The buffer that gradients are reduced in is kept. What ZeRO-3 gathers: `_gathered`. Activations:
    `_layer_activations`; if they are recomputed, each layer keeps its input alone. Working memory is that of the head's
    backward pass, or of a layer's if that is larger.

    A test compares this with a training on tensors without values, and one on a GPU with a training.
    """
    ranks, element = launch.processes, launch.bytes_per_weight
    shared = {stage: 1 if launch.zero_stage < stage else ranks for stage in (1, 2, 3)}
    layer = _layer_activations(size, max_tokens) * element
    kept = max_tokens * size.hidden_size * element if recompute else layer
    on_device = 0 if launch.offload_optimizer else 12
    spread = spread_parameters(size, launch)
    own, others = spread / launch.expert_parallel, size.parameters - spread
    trained = size.trained_parameters - spread
    # A spread expert in float32 is its own master copy.
    own_state = 12 if element < 4 else 8
    recomputed = layer if recompute else 0
    # Gradients of spread experts are held all the time, so those of a layer are there once more.
    with_gradients = (own + others) / size.layers * element + recomputed
    layer_working = with_gradients if spread else _layer_working(size, element, recomputed)
    return Memory(
        weights=(others / shared[3] + own) * element / GIB,
        gradients=(trained / shared[2] + own) * element / GIB,
        optimizer=(trained * on_device / shared[1] + own * own_state) / GIB,
        bucket=min(trained, launch.bucket_parameters) * element / GIB,
        gathered=_gathered(size, launch, recompute) * element / GIB,
        activations=kept * size.layers / GIB,
        working=max(_head_working(size, element), layer_working) / GIB,
    )


def _layer_activations(size: ModelSize, tokens: int) -> int:
    """Elements that a layer keeps for its backward pass, counted in bfloat16: an element in float32 is two.

    Hidden states: each of the two norms keeps its input in float32 (2), its normalised input (1) and its output (1);
    each of the two sums is kept as well (1). Attention: the queries in float32 for their norm (2), normalised, scaled,
    rotated, and the output in both orders; keys and values are few. Experts: gate and up (2), the activation, the
    product; and the input and output of each expert that a token chooses. Where experts are spread, this counts as many
    tokens from other processes as are sent to them.
    """
    hidden = (10 + 2 * size.experts_per_token) * size.hidden_size
    return tokens * (hidden + 6 * size.attention_width + 4 * size.expert_width)


def _gathered(size: ModelSize, launch: Launch, recompute: bool) -> int:
    """Weights that ZeRO-3 holds whole besides its parts, and the buffer in which further ones arrive.

    DeepSpeed stops gathering ahead with the first weight beyond `max_live_parameters`. Without recomputed activations
    the backward pass of the experts' grouped product keeps the experts' weights, so those that were gathered stay.
    """
    if launch.zero_stage < 3 or launch.processes == 1:
        return 0
    live = launch.max_live_parameters + size.largest_parameter + (0 if recompute else size.expert_parameters)
    return min(size.parameters, live) + min(size.parameters, launch.prefetch_parameters)


def _head_working(size: ModelSize, element: int) -> int:
    """Bytes: logits of a chunk, their softmax and its gradient, in float32, and the gradient of the head's weight."""
    return 3 * CHUNK * size.vocabulary * 4 + min(size.head_parameters, size.trained_parameters) * element


def _layer_working(size: ModelSize, element: int, activations: int) -> int:
    """Bytes: the gradients of a layer's weights, together with its activations, or later with the copy to reduce."""
    gradients = size.trained_parameters // size.layers * element
    return gradients + max(gradients, activations)


@dataclass(frozen=True)
class Work:
    """The work of some rows: sample i has `lengths[i]` tokens, of which another sample computes `shared[i]`."""

    lengths: np.ndarray
    shared: np.ndarray
    completion_tokens: int

    @classmethod
    def of(cls, table: TokenTable, rows: list[RowPlan]) -> Work:
        """The work of planned rows."""
        members = np.array([sample for row in rows for sample in row.members])
        shared = np.array([n for row in rows for n in row.shared])
        return cls(table.computed_lengths[members], shared, int(table.completion_lengths[members].sum()))

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return int(self.lengths.sum() - self.shared.sum())


def rows_of(table: TokenTable, steps: list[np.ndarray], schedule: Schedule, processes: int) -> tuple[Work, int]:
    """The work of some steps, and the sum of their micro-steps."""
    planned = [
        plan_rows(table, step, processes, schedule.max_tokens_per_gpu, schedule.prefix_sharing) for step in steps
    ]
    rows = [row for ranks in planned for of_rank in ranks for row in of_rank]
    return Work.of(table, rows), sum(len(ranks[0]) for ranks in planned)


@dataclass(frozen=True)
class Epoch:
    """The first epoch: its number of steps, and the work of its first `counted` steps."""

    steps: int
    counted: int
    work: Work
    micro_steps: float  # per step

    @classmethod
    def of(cls, table: TokenTable, schedule: Schedule, processes: int, count: int | None = None) -> Epoch:
        """Plan the first `count` steps; by default `COUNTED_STEPS`."""
        steps = step_targets(table.users, schedule, epoch=0)
        counted = steps[: COUNTED_STEPS if count is None else count]
        work, micro_steps = rows_of(table, counted, schedule, processes)
        return cls(len(steps), len(counted), work, micro_steps / len(counted))

    @property
    def computed_tokens(self) -> int:
        """Tokens that go through the model in the epoch, extrapolated from the counted steps."""
        return round(self.work.tokens / self.counted * self.steps)


def flops(size: ModelSize, work: Work, recompute: bool) -> float:
    """Floating point operations of forward and backward.

    A multiply-add counts 2. The forward pass counts once, the backward pass twice, and recomputing once more. Attention
    over a document of n tokens computes n^2 / 2 scores of `attention_width` multiply-adds, and as many for the values
    (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B). The head sees completion tokens alone, and its chunks
    are always recomputed.
    """
    passes = 4 if recompute else 3
    body = 2.0 * size.active_parameters * work.tokens
    squares = float((work.lengths.astype(np.float64) ** 2 - work.shared.astype(np.float64) ** 2).sum())
    attention = 2.0 * size.layers * size.attention_width * squares
    return passes * (body + attention) + 4 * 2.0 * size.head_parameters * work.completion_tokens


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of an optimizer step by what they are spent on.

    Computing, the traffic of weights and gradients, and the work of the host overlap, so these take the longest of
    them. Experts wait for tokens and the next layer for experts, so their exchange comes on top.
    """

    compute: float
    traffic: float
    host: float
    exchange: float = 0.0

    @property
    def total(self) -> float:
        """The longest, and the exchange."""
        return max(self.compute, self.traffic, self.host) + self.exchange

    @property
    def bound_by(self) -> str:
        """What takes longest."""
        return max(vars(self), key=lambda name: float(vars(self)[name]))


@dataclass(frozen=True)
class Traffic:
    """Bytes of the tensors that each process gathers, reduces and exchanges."""

    gathered: float
    reduced: float
    exchanged: float = 0.0  # hidden states that are sent to experts and back, those of own experts included
    summed: float = 0.0  # gradients of experts that several groups of processes hold

    def moved(self, launch: Launch) -> float:
        """Bytes that each process sends."""
        return self.overlapping(launch) + self.with_experts(launch)

    def overlapping(self, launch: Launch) -> float:
        """Bytes that each process sends while it computes.

        A ring moves (ranks - 1) / ranks of what it gathers or reduces, and twice as much where all get the sums.
        """
        ranks = launch.processes
        to_all = 2 if launch.reduces_to_all and launch.zero_stage in (1, 2) else 1
        return (self.gathered + to_all * self.reduced) * (ranks - 1) / ranks

    def with_experts(self, launch: Launch) -> float:
        """Bytes that each process sends while the others wait for them."""
        degree, groups = launch.expert_parallel, launch.processes // launch.expert_parallel
        return self.exchanged * (degree - 1) / degree + 2 * self.summed * (groups - 1) / groups


def step_traffic(
    size: ModelSize, launch: Launch, micro_steps: float, tokens: float = 0.0, recompute: bool = True
) -> Traffic:
    """Traffic of an optimizer step.

    In every micro-step ZeRO-3 gathers the weights in the forward and in the backward pass and reduces the gradients.
    Lower stages gather weights once per step; ZeRO-2 reduces gradients in every micro-step, ZeRO-1 once per step. What
    ZeRO-3 keeps from the forward pass for the backward pass is not subtracted: for the 30B 3 % of what is gathered.

    Spread experts are neither gathered nor reduced. In each of their layers the hidden state of each token is sent to
    each expert that it chooses and comes back, in the forward pass, in the backward pass, and where activations are
    recomputed once more.

    Args:
        tokens: that each process computes in the step.
    """
    if launch.zero_stage == 3:
        weights, gradients = (n * launch.bytes_per_weight for n in (size.parameters, size.trained_parameters))
        return Traffic(2 * micro_steps * weights, micro_steps * gradients)
    spread = spread_parameters(size, launch)
    gradients = (size.trained_parameters - spread) * launch.bytes_per_weight
    return Traffic(
        gathered=gradients,
        reduced=gradients * (1 if launch.zero_stage == 1 else micro_steps),
        exchanged=(3 if recompute else 2) * _exchanged(size, launch, tokens),
        summed=spread / launch.expert_parallel * launch.bytes_per_weight,
    )


def _exchanged(size: ModelSize, launch: Launch, tokens: float) -> float:
    """Bytes of hidden states that travel to experts and back for one pass over so many tokens of a process."""
    if launch.expert_parallel == 1:
        return 0.0
    return 2 * tokens * size.expert_layers * size.experts_per_token * size.hidden_size * launch.bytes_per_weight


def forward_traffic(size: ModelSize, launch: Launch, rows: float, tokens: float = 0.0) -> Traffic:
    """Traffic of forward passes alone, for which ZeRO-3 gathers the weights once each.

    Args:
        tokens: that each process computes.
    """
    gathered = rows * size.parameters * launch.bytes_per_weight if launch.zero_stage == 3 else 0
    return Traffic(gathered, 0, _exchanged(size, launch, tokens))


def step_seconds(
    size: ModelSize,
    launch: Launch,
    hardware: Hardware,
    flops_a_step: float,
    micro_steps: float,
    traffic: Traffic,
    share: float = 1.0,
) -> StepSeconds:
    """Seconds per optimizer step.

    Args:
        share: of the host's work in a step.
    """
    compute = flops_a_step / (launch.processes * hardware.peak_tflops * 1e12 * hardware.utilisation)
    compute += share * micro_steps * hardware.micro_step_overhead_s
    host = share * micro_steps * size.layers * hardware.host_s_per_layer
    if launch.expert_parallel > 1:
        host *= HOST_WHEN_SPREAD
    weights, tokens = traffic.overlapping(launch), traffic.with_experts(launch)
    speed = hardware.interconnect_gb_s * 1e9
    return StepSeconds(compute, weights / speed, host, tokens / speed)


def epoch_step(
    size: ModelSize, launch: Launch, hardware: Hardware, epoch: Epoch, recompute: bool
) -> tuple[StepSeconds, Traffic]:
    """Seconds and traffic of a mean step of an epoch."""
    tokens = epoch.work.tokens / epoch.counted / launch.processes
    traffic = step_traffic(size, launch, epoch.micro_steps, tokens, recompute)
    work = flops(size, epoch.work, recompute) / epoch.counted
    return step_seconds(size, launch, hardware, work, epoch.micro_steps, traffic), traffic


def validation_seconds(
    val: TokenTable, schedule: Schedule, size: ModelSize, launch: Launch, hardware: Hardware
) -> float:
    """Seconds of one validation: the forward pass alone."""
    work, rows = rows_of(val, [np.arange(len(val))], schedule, launch.processes)
    traffic = forward_traffic(size, launch, rows, work.tokens / launch.processes)
    return step_seconds(size, launch, hardware, FORWARD * flops(size, work, False), rows, traffic, FORWARD).total


def larger_steps(
    table: TokenTable, schedule: Schedule, size: ModelSize, launch: Launch, hardware: Hardware, recompute: bool
) -> dict[int, float]:
    """Hours of an epoch's steps with 2, 4 and 8 times as many samples in a step, where the epoch has as many."""
    hours = {}
    for samples, larger in larger_schedules(schedule, len(table)).items():
        epoch = Epoch.of(table, larger, launch.processes, COUNTED_LARGER_STEPS)
        step, _ = epoch_step(size, launch, hardware, epoch, recompute)
        hours[samples] = step.total * epoch.steps / 3600
    return hours


def larger_schedules(schedule: Schedule, n_samples: int) -> dict[int, Schedule]:
    """The schedules of `larger_steps`, by samples of a step."""
    sizes = [factor * schedule.samples_per_step for factor in (2, 4, 8)]
    return {size: schedule.model_copy(update={"samples_per_step": size}) for size in sizes if size <= n_samples}


def by_user(schedule: Schedule) -> Schedule:
    """The schedule with all samples of a user in one step."""
    return schedule.model_copy(update={"batch_by": "user"})


def counted_samples(users: np.ndarray, schedule: Schedule) -> np.ndarray:
    """The samples whose tokens the plan of a stage looks at.

    Args:
        users: index of the user of each sample.
    """
    asked = [(schedule, COUNTED_STEPS), (by_user(schedule), COUNTED_STEPS)]
    asked += [(larger, COUNTED_LARGER_STEPS) for larger in larger_schedules(schedule, len(users)).values()]
    return np.concatenate([step for each, count in asked for step in step_targets(users, each, epoch=0)[:count]])


def computed_tokens_by_user(epoch: Epoch, table: TokenTable, schedule: Schedule, processes: int) -> int:
    """Tokens that the first epoch would compute with `batch_by: user`."""
    if schedule.batch_by == "user":
        return epoch.computed_tokens
    return Epoch.of(table, by_user(schedule), processes).computed_tokens


def nearest_that_fits(
    size: ModelSize, launch: Launch, hardware: Hardware, schedule: Schedule, recompute: bool, longest: int
) -> str:
    """Advice: the nearest setting that fits into memory; empty if the present one does."""

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
    if launch.expert_parallel > 1:
        for more in (1, 2, 4, 8, 16):
            processes = more * launch.processes
            wider = replace(launch, processes=processes, expert_parallel=math.gcd(size.experts, processes))
            if fits(wider, budget, True):
                gpus = f"take {processes} GPUs, " if more > 1 else ""
                return f"{gpus}set expert_parallel: {wider.expert_parallel} and gradient_checkpointing: true"
        return "no setting of these fits: take a smaller model"
    if fits(replace(launch, offload_optimizer=True), budget, True):
        return "take a DeepSpeed file with optimizer offload and set gradient_checkpointing: true"
    for factor in (2, 4, 8, 16):
        if fits(replace(launch, processes=factor * launch.processes), budget, True):
            return f"take {factor * launch.processes} GPUs and set gradient_checkpointing: true"
    return "no setting of these fits: train adapters (lora), or take a smaller model"
