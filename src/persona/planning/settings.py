"""What the plan is computed from, without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from persona.evaluation.settings import GenerationSettings
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
    host_s_per_layer: NotNegative = 0.0
    """Seconds that the host needs to start the work of a layer in a micro-step on a GPU. It does so while the GPU
    computes, so small micro-steps take as long as this."""

    start_s: NotNegative = 20.0
    """Seconds from the start of a job until its processes have imported their libraries."""
    load_gb_s: Positive = 0.58
    """GB/s at which the weights are loaded for a training: read, converted and divided among the processes."""
    disk_read_gb_s: Positive = 2.0
    """GB/s at which the weights are read for an evaluation."""
    disk_write_gb_s: Positive = 0.79
    """GB/s at which the trained model is written."""
    host_copy_gb_s: Positive = 1.7
    """GB/s at which each process copies its state to host memory."""
    decode_s_per_layer: NotNegative = 0.006
    """Seconds of a layer for one token of each text of a batch that is written."""
    measured: Text | None = None
    """What was measured and when, as `python -m persona calibrate` writes it; `null` if the figures are assumed."""


class PlannedStage(Settings):
    """What the training of a stage will be started with."""

    tokens: Text
    """Parquet file of the training tokens."""
    val_tokens: Text
    """Parquet file of the validation tokens."""
    test_tokens: Text
    """Parquet file of the test tokens."""
    empty_tokens: Text
    """Parquet file of the test tokens without the user."""
    impostor_tokens: Text | None
    """Parquet file of the test tokens with impostors as the users; `null` if their own prompts serve."""
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
    processes_per_node: Count
    """Processes of one machine, which evaluate."""
    candidates: Count
    """Prompts under which each test text is scored."""
    generation: GenerationSettings
    """The texts that are written."""
    evaluated_together: bool
    """Whether one job evaluates all stages."""
    bytes_per_weight: Count
    """2 on GPUs, 4 on CPUs."""
