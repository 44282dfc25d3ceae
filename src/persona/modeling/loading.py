"""Load a model for training or for scoring."""

from __future__ import annotations

from typing import Any

import torch

from persona.errors import PersonaError


def default_device() -> torch.device:
    """The GPU of this process where there is one, else the CPU."""
    import os

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on the CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_model(path: str, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """Load a causal language model and make sure that every weight came from the file.

    Args:
        device: where to load the weights; None leaves them to the caller (DeepSpeed partitions them).

    Raises:
        PersonaError: there is no such model, or its weights and its code do not fit each other.
    """
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            device_map=None if device is None else {"": device},
        )
    except (OSError, ValueError) as error:
        raise PersonaError(f"{path}: no model could be loaded: {str(error).splitlines()[0]}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info.get(kind, []))):
            raise PersonaError(f"{path}: {len(names)} weights are {kind.split('_')[0]}, the first is {names[0]}")
    return model
