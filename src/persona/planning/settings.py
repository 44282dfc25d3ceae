"""What the plan is computed from, without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from persona.settings import Count, NotNegative, Positive, Settings, Text
from persona.training.settings import Optimization, Schedule


class Hardware(Settings):
    """One GPU, or the share of one CPU process. Defaults: an H100's data sheet and the utilisation measured on one."""

    memory_gib: Positive = 79.0
    """Memory of the device in GiB."""
    peak_tflops: Positive = 989.0
    """Peak arithmetic throughput in TFLOP/s."""
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.13
    """Share of the peak that the training reaches."""
    interconnect_gb_s: Positive = 450.0
    """Bandwidth between the devices in GB/s."""
    micro_step_overhead_s: NotNegative = 0.0
    """Seconds that each micro-step takes besides computing."""
    host_s_per_micro_step: NotNegative = 0.0
    """Seconds that the host needs to start the work of a micro-step on a GPU. It does so while the GPU computes, so
    small micro-steps take as long as this."""


class PlannedStage(Settings):
    """What the training of a stage will be started with."""

    tokens: Text
    """Parquet file of the training tokens."""
    val_tokens: Text
    """Parquet file of the validation tokens."""
    model: Text
    """A folder or a hub id."""
    deepspeed: Text
    """The DeepSpeed file."""
    optimization: Optimization
    """How the weights are changed."""
    schedule: Schedule
    """How long to train."""
    processes: Count
    """Processes of all machines."""
    bytes_per_weight: Count
    """2 on GPUs, 4 on CPUs."""
