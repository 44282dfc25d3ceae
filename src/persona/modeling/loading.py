"""Load a model for training or for scoring."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from persona.base_model import advice, source
from persona.errors import PersonaError
from persona.modeling.attention import BY_PREFIX


def default_device() -> torch.device:
    """The GPU of this process where there is one, else the CPU."""
    import os

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def dtype_on(device: torch.device, cpu_dtype: str = "float32") -> torch.dtype:
    """bfloat16 on a GPU, `cpu_dtype` on the CPU: `float32` or `bfloat16`."""
    return torch.bfloat16 if device.type == "cuda" or cpu_dtype == "bfloat16" else torch.float32


def packed_attention(device: torch.device) -> str:
    """Attention for rows without shared prefixes: FlashAttention 2 on a GPU if it is installed, else `BY_PREFIX`."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else BY_PREFIX


def load_model(path: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Load a causal language model onto a device.

    Raises:
        PersonaError: see `check_weights`.
    """
    check_weights(path)
    return _from_pretrained(path, BY_PREFIX, dtype=dtype, device_map={"": device})


def load_partitioned_model(path: str, dtype: torch.dtype, attention: str) -> Any:
    """Load a causal language model; DeepSpeed partitions its weights while they load if an HfDeepSpeedConfig exists.

    Call `check_weights` before that config is made.
    """
    return _from_pretrained(path, attention, dtype=dtype)


def check_weights(path: str) -> None:
    """Check that a model's files contain every weight that its code has, and no other. Of a folder it reads no values.

    Loading under ZeRO-3 does not report unknown weights, so this check is separate. Every process makes it, so reading
    the values, as transformers does even where it throws them away, would take long.

    Raises:
        PersonaError: there is no such model, files are not whole, or weights are missing, unknown or of another shape.
    """
    source(path)  # before weights are read: it refuses files that are not whole
    options = {"device_map": {"": "meta"}, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        shapes = _shapes(Path(path))
        if shapes:
            _, info = _of_shapes(path, shapes, **options)
        else:
            _, info = _from_pretrained(path, BY_PREFIX, **options)
    except (OSError, ValueError) as error:
        raise _not_loaded(path, error) from error
    except RuntimeError as error:  # of transformers, which could not fuse the weights of experts
        raise PersonaError(f"{path}: weights of experts are missing or of another shape") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(name if isinstance(name, str) else name[0] for name in info[kind])
        if names:
            raise PersonaError(f"{path}: {len(names)} weights are {kind.split('_')[0]}, the first is {names[0]}")


def load_config(path: str) -> Any:
    """The configuration of a model, without weights.

    Raises:
        PersonaError: there is none.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(**source(path))
    except (OSError, ValueError) as error:
        raise _not_loaded(path, error) from error


def hub_commit(path: str) -> str:
    """The id of a model on the hub with the commit of its files, which change where no revision is given."""
    return f"{path.partition('@')[0]}@{load_config(path)._commit_hash}"


def _not_loaded(path: str, error: Exception) -> PersonaError:
    return PersonaError(f"{path}: no model could be loaded ({str(error).splitlines()[0]}){advice(path)}")


def _from_pretrained(path: str, attention: str, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(**source(path), attn_implementation=attention, **options)
    if attention == BY_PREFIX:
        _require_full_attention(path, (loaded[0] if isinstance(loaded, tuple) else loaded).config)
    return loaded


def _shapes(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in the files of a folder, without values; none if it has no files of this format."""
    from transformers.modeling_utils import load_state_dict

    shapes: dict[str, torch.Tensor] = {}
    for file in _weight_files(folder):
        shapes |= load_state_dict(file, map_location="meta")
    return shapes


def weight_bytes(path: str, dtype: torch.dtype) -> int:
    """Bytes of a model's weights in memory; 0 for a model of the hub. Of an adapter also those of its base model."""
    folder = Path(path)
    n_weights = sum(math.prod(shape.shape) for shape in _shapes(folder).values()) if folder.is_dir() else 0
    adapter = folder / "adapter_config.json"
    base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"] if adapter.is_file() else None
    return n_weights * dtype.itemsize + (weight_bytes(base, dtype) if base else 0)


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read: of an index if there is one, and no others that lie beside them."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not index.exists():
        return []
    named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return [folder / name for name in sorted(set(named.values()))]


def _of_shapes(path: str, shapes: dict[str, torch.Tensor], **options: Any) -> Any:
    """Load a model from weights without values."""
    from transformers import AutoModelForCausalLM

    config = load_config(path)
    _require_full_attention(path, config)
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(config))
    return kind.from_pretrained(None, config=config, state_dict=shapes, attn_implementation=BY_PREFIX, **options)


def _require_full_attention(path: str, config: Any) -> None:
    """Check that a model's tokens attend to all tokens before them, which is what `BY_PREFIX` computes.

    Raises:
        PersonaError: the model has another attention, such as a sliding window.
    """
    others = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    settings = ("sliding_window", "attn_logit_softcapping", "attention_chunk_size")
    others |= {name for name in settings if getattr(config, name, None)}
    if others:
        raise PersonaError(
            f"{path}: this model's attention has {', '.join(sorted(others))}; only full attention is supported"
        )
