"""What the plan assumes of the hardware, without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from persona.settings import NotNegative, Positive, Settings


class Hardware(Settings):
    """One GPU, or the share of one CPU process. Defaults: an H100's data sheet and a guess of its utilisation."""

    memory_gib: Positive = 79.0
    """Memory of the device in GiB."""
    peak_tflops: Positive = 989.0
    """Peak arithmetic throughput in TFLOP/s."""
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the peak that the training reaches."""
    interconnect_gb_s: Positive = 450.0
    """Bandwidth between the devices in GB/s."""
    micro_step_overhead_s: NotNegative = 0.0
    """Seconds that each micro-step takes besides computing."""
