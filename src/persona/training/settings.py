"""Settings of a training, without torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from persona.settings import Count, NotNegative, Positive, Seed, Settings, Share, Text


class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), trained instead of the weights."""

    r: Count = 64
    """Rank of the adapters."""
    alpha: Count = 128
    """Their scale is `alpha / r`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout of their inputs. Above 0, prefixes are not shared."""
    target_modules: Annotated[list[Text], Field(min_length=1)]
    """Names of the modules that get adapters, such as `[q_proj, v_proj]`. `gate_proj`, `up_proj` and `down_proj` add
    adapters to all experts, which are many: the plan counts them."""


class Optimization(Settings):
    """How the weights are changed."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW."""
    lr_scheduler_type: Literal["constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    """Shape of the learning rate. `cosine` and `linear` reach 0 at `max_epochs`, which early stopping may prevent."""
    warmup_ratio: Share = 0.1
    """Share of the first epoch's steps in which the learning rate rises, in equal parts from the first step on. (Any
    later epoch may be the last one.)"""
    weight_decay: NotNegative = 0.01
    """Weight decay of matrices; biases and norms have none."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    cpu_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations on CPU processes, in training and evaluation; GPUs always use bfloat16. The
    optimizer keeps float32 either way. `bfloat16` is about twice as fast on CPUs with instructions for it (AMX,
    AVX512-BF16) and slow on others. `python -m persona calibrate` measures float32, so the plan expects twice
    the time."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more computation."""
    expert_parallel: Count = 1
    """Processes over which the experts of each layer are spread, a divisor of all processes and of the number of
    experts. Tokens travel to the experts instead of weights to the tokens; `deepspeed` (`zero1` or `zero2`) is about
    all other weights then. See [training.md](../docs/training.md#expert-parallelism)."""
    lora: Lora | None = None
    """Train adapters instead of the weights; `null` trains the weights."""


class ScheduleSettings(Settings):
    """How long to train, with what order of samples, and when to stop."""

    max_tokens_per_gpu: Count = 8192
    """Tokens of a packed row, at least the model's `max_length`. Changing this reschedules trainings, but finished
    models are reused."""
    batch_by: Literal["sample", "user"] = "sample"
    """`sample` shuffles the samples of an epoch. `user` puts the samples of a user into one step: more prefixes are
    shared, and gradients are noisier; see [training.md](../docs/training.md)."""
    prefix_sharing: bool = True
    """Compute tokens shared within an optimizer step once. Off where `lora.dropout` is above 0. Changing this
    reschedules trainings, but finished models are reused."""
    max_epochs: Count = 50
    """The training ends after so many epochs at the latest."""
    validate_every_steps: Count | None = None
    """Compute the validation loss every so many steps of an epoch, besides its end; `null` for its end alone."""
    early_stopping_patience: Count = 3
    """The training ends after so many validations without a better loss."""
    early_stopping_threshold: NotNegative = 0.0
    """A validation loss is better if it is lower by more than this, in nats per token."""
    checkpoint_minutes: NotNegative = 30.0
    """Minutes from one checkpoint to the next: the most work that a crash may cost. A training that ends sooner writes
    none. Told to stop, a training is always saved."""
    checkpoint_share: Annotated[float, Field(gt=0, le=1)] = 0.03
    """Share of the time that the training may wait for checkpoints, measured as it goes. Where they take longer, they
    come later than `checkpoint_minutes` says."""
    checkpoint_every_steps: Count | None = None
    """Save a checkpoint every so many steps as well, whatever it takes; `null` for none."""
    seed: Seed = 42
    """Seed of the order of samples and of dropout."""


class Schedule(ScheduleSettings):
    """The schedule of one training."""

    samples_per_step: Count
    """Samples of an optimizer step, over all processes."""

    def steps_per_epoch(self, n_targets: int) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(n_targets / self.samples_per_step)


class ExportSettings(Settings):
    """What is left of a finished training."""

    merge_adapter: bool = False
    """Add the adapter to the weights, so that the result is an ordinary model."""
    keep_training_state: bool = False
    """Keep the last checkpoint."""


# These change how a training runs; its result changes by rounding alone.
EXECUTION_ONLY = {
    "checkpoint_every_steps",
    "checkpoint_minutes",
    "checkpoint_share",
    "max_tokens_per_gpu",
    "gradient_checkpointing",
    "prefix_sharing",
}
