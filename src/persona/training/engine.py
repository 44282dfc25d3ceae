"""The DeepSpeed engine around the model: the same code for two CPU processes and for eight GPUs."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from persona.errors import PersonaError
from persona.modeling.attention import BY_PREFIX
from persona.modeling.expert_parallel import load_with_spread_experts, parts
from persona.modeling.loading import (
    check_weights,
    default_device,
    dtype_on,
    load_partitioned_model,
    packed_attention,
)
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import TokenTable, pack_row, plan_rows
from persona.training.adapters import add_adapters
from persona.training.experts import ExpertOptimizer, keep_experts_apart, mark_experts
from persona.training.settings import Lora, Optimization, Schedule

# Nats a token on average; rounding of bfloat16 differs with the order of the computation.
ALLOWED_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
COMPARED_TOKENS = 100


def build_engine(
    model_path: str,
    deepspeed_file: Path,
    settings: Optimization,
    epoch_steps: int,
    max_epochs: int,
    prefix_sharing: bool,
    seed: int = 0,
) -> Any:
    """Load the model, partitioned as the DeepSpeed file says, with its optimizer and learning-rate schedule.

    With `settings.expert_parallel` the experts are spread over the processes, and the file is about all other weights.

    Args:
        seed: of the adapters.

    Raises:
        PersonaError: the model cannot be loaded, has no modules for the adapters, or draws dropout that samples with
            shared prefixes would share.
    """
    from transformers.integrations import HfDeepSpeedConfig

    dtype = dtype_on(default_device(), settings.cpu_dtype)
    config = deepspeed_config(deepspeed_file, settings, dtype)
    attention = BY_PREFIX if prefix_sharing else packed_attention(default_device())
    check_weights(model_path)
    mesh = None
    if settings.expert_parallel > 1:
        model, mesh = load_with_spread_experts(model_path, dtype, attention, settings.expert_parallel)
    else:
        # Must exist while the model loads, or the weights are not partitioned.
        partitioning = HfDeepSpeedConfig(config)
        model = load_partitioned_model(model_path, dtype, attention)
        del partitioning
    if settings.lora is not None:
        add_adapters(model, settings.lora, seed)
    if prefix_sharing:
        _refuse_dropout(model)
    return engine_around(model, config, settings, epoch_steps, max_epochs, mesh)


def engine_around(
    model: Any,
    config: dict[str, Any],
    settings: Optimization,
    epoch_steps: int,
    max_epochs: int,
    mesh: DeviceMesh | None = None,
) -> Any:
    """The engine that trains a loaded model, with its loss, optimizer and learning-rate schedule.

    Its attribute `expert_optimizer` is an `ExpertOptimizer`, or None if the experts are not spread.

    Args:
        config: of DeepSpeed, see `deepspeed_config`.
        mesh: over which the experts are spread.
    """
    import deepspeed

    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss = CompletionLoss(model)
    if config["zero_optimization"]["stage"] == 3 and settings.lora is None:
        # Gather a layer at once: hooks around each of its modules take more of the host's time. Not where some weights
        # of a layer are frozen: DeepSpeed 0.19.8 then lets go of a layer before its backward pass is over.
        deepspeed.utils.set_z3_leaf_modules(loss, list(model._no_split_modules))
    optimizer = torch.optim.AdamW(
        _decay_groups(loss, settings.weight_decay),
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    share = partial(
        learning_rate_share,
        settings.lr_scheduler_type,
        n_warmup=round(settings.warmup_ratio * epoch_steps),
        n_steps=epoch_steps * max_epochs,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    if mesh is not None:
        mark_experts(loss, mesh)
    engine, *_ = deepspeed.initialize(model=loss, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    engine.expert_optimizer = None
    if mesh is not None:
        engine.expert_optimizer = ExpertOptimizer(loss, settings, mesh)
        keep_experts_apart(engine)
    return engine


def optimizer_step(engine: Any) -> tuple[float, float]:
    """Change all weights by their gradients.

    Returns: the learning rate of the step, and the norm of the gradients before they were clipped.
    """
    learning_rate = float(engine.optimizer.param_groups[0]["lr"])
    engine.step()
    norm = float(engine.get_global_grad_norm())
    if engine.expert_optimizer is not None:
        engine.expert_optimizer.step(learning_rate, norm)
    return learning_rate, norm


def check_likelihoods(engine: Any, table: TokenTable, schedule: Schedule, model_path: str) -> None:
    """Compare the likelihoods of some samples, in a row, with what the model itself computes for each.

    These are the shortest samples that have `COMPARED_TOKENS` tokens of completion together, as far as they fit into
    one row of the training.

    Every rank calls it.

    Raises:
        PersonaError: they differ by more than rounding, so the model does something that this loss leaves out.
    """
    shortest = np.argsort(table.lengths, kind="stable")
    n_enough = int(np.searchsorted(np.cumsum(table.completion_lengths[shortest]), COMPARED_TOKENS)) + 1
    n_fitting = int(np.searchsorted(np.cumsum(table.lengths[shortest]), schedule.max_tokens_per_gpu, side="right"))
    compared = shortest[: max(1, min(n_enough, n_fitting))]
    [[plan]] = plan_rows(table, compared, 1, schedule.max_tokens_per_gpu, schedule.prefix_sharing)
    documents = [(table[sample], int(table.prompt_lengths[sample])) for sample in plan.members]
    row = pack_row(table, plan.members, plan.shared).to(engine.device)
    try:
        difference = engine.module.difference_from_plain(row, documents)
    except (AttributeError, TypeError, ValueError, NotImplementedError) as error:
        raise PersonaError(f"{model_path}: its architecture is not supported ({error}), see docs/models.md") from error
    allowed = ALLOWED_DIFFERENCE[next(engine.module.parameters()).dtype]
    if not difference <= allowed:
        raise PersonaError(
            f"{model_path}: the likelihoods of this model differ by {difference:.3g} nats a token from those that it "
            f"computes itself, allowed is {allowed:g}; its architecture is not supported, see docs/models.md"
        )


def learning_rate_share(kind: str, step: int, n_warmup: int, n_steps: int) -> float:
    """The share of the peak learning rate with which a step is made; no step has 0.

    Args:
        kind: `Optimization.lr_scheduler_type`.
        step: of the training, from 0.
        n_warmup: steps in which the share rises to 1.
    """
    if step < n_warmup:
        return (step + 1) / n_warmup
    left = max(0.0, (n_steps - step) / max(1, n_steps - n_warmup))
    if kind == "linear":
        return left
    return (1 - math.cos(math.pi * left)) / 2 if kind == "cosine" else 1.0


def sharing_explained(prefix_sharing: bool, lora: Lora | None) -> str:
    """Whether samples share prefixes, and why not, as a text for the log and the plan."""
    if prefix_sharing:
        return "shared prefixes computed once"
    if lora and lora.dropout:
        return f"prefixes not shared: lora.dropout {lora.dropout:g} drops other values in each sample"
    return "prefixes not shared"


def _refuse_dropout(model: Any) -> None:
    """Check that a shared token has the same hidden states in all samples that it belongs to.

    A router's auxiliary loss, which is a mean over tokens, would differ as well; this training has none.

    Raises:
        PersonaError: the model uses dropout, which is drawn anew for each sample.
    """
    dropout = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    dropout["attention_dropout"] = getattr(model.config, "attention_dropout", 0.0)
    for name, probability in dropout.items():
        if probability > 0:
            raise PersonaError(
                f"{name} has dropout {probability:g}: samples that share tokens would share what is dropped; set "
                "prefix_sharing: false in the recipe, or train without dropout"
            )


def deepspeed_config(file: Path, settings: Optimization, dtype: torch.dtype) -> dict[str, Any]:
    """The user's file with the settings of the recipe. The loop counts micro-steps, not DeepSpeed."""
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_allow_untested_optimizer": True,
        # With optimizer offload torch's AdamW runs on the CPU; DeepSpeed's own would be compiled for two minutes.
        "zero_force_ds_cpu_optimizer": False,
    }


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only. Under ZeRO-3 `shape` is that of the partition, `ds_shape` the whole one.

    Spread experts are not among them: they have an optimizer of their own.
    """
    parameters = [p for p in model.parameters() if p.requires_grad and parts(p) == 1]
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    vectors = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
