"""A DeepSpeed engine around the model: the same on two CPU processes and on eight GPUs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from persona.modeling.loading import default_device, default_dtype, load_model
from persona.modeling.loss import CompletionLoss

PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Optimization:
    """How the weights are changed. `warmup_ratio` is a share of the first epoch: any later one may be the last."""

    learning_rate: float
    lr_scheduler_type: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    gradient_checkpointing: bool


def start_distributed() -> None:
    """Join the process group that torchrun made: gloo on the CPU, NCCL on GPUs."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if not torch.cuda.is_available():
        # The shared-memory op would be compiled for 40 s; gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Ranks wait while rank 0 hashes the base model or writes an export of 61 GB.
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False, timeout=PATIENCE
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(default_device())


def build_engine(
    model_path: str, deepspeed_file: Path, settings: Optimization, epoch_steps: int, max_epochs: int
) -> Any:
    """Load the model, partitioned as the DeepSpeed file says, and put optimizer and schedule on it."""
    import deepspeed
    from transformers import get_scheduler
    from transformers.integrations import HfDeepSpeedConfig

    dtype = default_dtype(default_device())
    config = _deepspeed_config(deepspeed_file, settings, dtype)
    # Must live while the model loads, or the weights are not partitioned.
    partitioning = HfDeepSpeedConfig(config)
    model = load_model(model_path, dtype)
    del partitioning
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss = CompletionLoss(model)
    optimizer = torch.optim.AdamW(
        _decay_groups(loss, settings.weight_decay),
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        fused=torch.cuda.is_available(),
    )
    scheduler = get_scheduler(
        settings.lr_scheduler_type,
        optimizer,
        num_warmup_steps=round(settings.warmup_ratio * epoch_steps),
        num_training_steps=epoch_steps * max_epochs,
    )
    engine, *_ = deepspeed.initialize(model=loss, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    return engine


def _deepspeed_config(file: Path, settings: Optimization, dtype: torch.dtype) -> dict[str, Any]:
    """The user's file and what the recipe decides. Micro-steps are counted by the loop, not by DeepSpeed."""
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_allow_untested_optimizer": True,
    }


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only. Under ZeRO-3 a parameter's own shape is that of its partition."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    vectors = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
