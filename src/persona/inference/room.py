"""Whether a model fits into the memory of this machine, before anything of it is loaded."""

from __future__ import annotations

import math

import psutil
import torch

from persona.errors import PersonaError
from persona.modeling.loading import weight_bytes
from persona.study import Stage, Study
from persona.units import human_size

NEEDED = 1.2  # of the weights: a prompt's activations and cache come on top. A guess
GPU_BYTES = 80e9  # of the GPU that a message names


def require_room(study: Study, stage: Stage, dtype: torch.dtype, device: torch.device) -> None:
    """Make sure that a stage's model fits.

    Raises:
        PersonaError: it does not; the message says what would.
    """
    needed = NEEDED * weight_bytes(str(stage.model), dtype)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later counts as used
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed <= free:
        return
    smaller = [
        f"{other.name} ({human_size(size)})"
        for other in study.stages.values()
        if other.name != stage.name and (size := NEEDED * weight_bytes(str(other.model), dtype)) <= free
    ]
    here = "this GPU" if device.type == "cuda" else "this machine"
    gpus = math.ceil(needed / GPU_BYTES)
    raise PersonaError(
        f"{stage.model}: the model of stage {stage.name} needs about {human_size(needed)} and {here} has "
        f"{human_size(free)} free; by its weights it needs {gpus} GPU{'s' if gpus > 1 else ''} of 80 GB, with vLLM "
        "(docs/serving.md)" + (f"; of the trained stages these fit here: {', '.join(smaller)}" if smaller else "")
    )
