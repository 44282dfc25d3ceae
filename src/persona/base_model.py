"""Where a base model is, in a folder or on the hub by its id and a revision, and what its files say without weights.

On the hub it is named `organisation/name@revision`.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from persona.errors import PersonaError

POINTER = b"version https://git-lfs"
# How configurations name the number of experts of a layer.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def source(path: str) -> dict[str, Any]:
    """The arguments of transformers' `from_pretrained` that say where a model or tokenizer is.

    Raises:
        PersonaError: it is a folder with incomplete files.
    """
    if Path(path).is_dir():
        if problem := incomplete_file(Path(path)):
            raise PersonaError(problem)
        return {"pretrained_model_name_or_path": path}
    name, _, revision = path.partition("@")
    arguments = {"pretrained_model_name_or_path": name, "local_files_only": not hub_answers(name)}
    return arguments | {"revision": revision} if revision else arguments


@functools.cache
def hub_answers(name: str) -> bool:
    """Whether the hub can be reached. Without a network its client tries again for 23 seconds, for each file anew."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=5)
    except HfHubHTTPError:
        return True  # it answers that there is no such file, or that it is not for everyone
    except Exception:  # of the connection; the client's library, and so the class, changes with its version
        return False
    return True


def advice(path: str) -> str:
    """How to get a model that could not be loaded, as the end of a message; empty for a folder."""
    if Path(path).is_dir():
        return ""
    name = path.partition("@")[0]
    return (
        f"; there is no folder {path}{_nearest_folder(Path(path))}. If it is a model of the hub, download it where "
        f"there is a network (about 2 GB for each billion weights): hf download {name} --local-dir "
        f"models/{name.rpartition('/')[2]}, and set the model's `path` to that folder. HF_ENDPOINT=https://... names a "
        "mirror, HF_HUB_OFFLINE=1 takes what was downloaded before"
    )


def _nearest_folder(path: Path) -> str:
    """The folder beside a missing one that has nearly its name, as a question; empty if there is none."""
    beside = [folder.name for folder in path.parent.iterdir() if folder.is_dir()] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, beside, n=1)
    return f" (did you mean {path.parent / nearest[0]}?)" if nearest else ""


def missing_model(path: str) -> str | None:
    """Why a model is neither a folder nor downloaded nor on the hub, or None. Asks the hub at most once."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if Path(path).is_dir():
        return None
    name, _, revision = path.partition("@")
    try:
        if try_to_load_from_cache(name, "config.json", revision=revision or None) is None:
            get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision or None), timeout=5)
    except Exception as error:  # of the id, the connection or the hub
        return f"{path}: there is no such model ({str(error).splitlines()[0]}){advice(path)}"
    return None


def incomplete_file(folder: Path) -> str | None:
    """Which file of a model's folder is missing or not whole, or None; no weights are read."""
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        with file.open("rb") as stream:
            if stream.read(len(POINTER)) == POINTER:
                return f"{file}: this is git-lfs's pointer to the file; run `git lfs pull` in {folder}"
        if file.suffix == ".safetensors" and not _is_whole(file):
            size = file.stat().st_size
            return f"{file}: only a part of a file, or no weights at all ({size:,} bytes); download it again"
    index = folder / "model.safetensors.index.json"
    if index.exists() and not (folder / "model.safetensors").exists():
        named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        for name in sorted(set(named.values())):
            if not (folder / name).exists():
                return f"{folder / name}: is missing, and {index.name} names it; download it"
    return None


def n_experts(config: Mapping[str, Any]) -> int:
    """Experts of a layer by the settings in a model's `config.json`; 1 without a mixture of experts."""
    return next((int(config[name]) for name in EXPERTS if config.get(name)), 1)


def cannot_be_spread(n_experts: int, degree: int) -> str | None:
    """Why so many experts cannot be spread over so many processes, or None."""
    if n_experts == 1:
        return "has no experts that could be spread over processes; leave out expert_parallel"
    if n_experts % degree:
        return f"has {n_experts} experts in a layer, which expert_parallel: {degree} does not divide; choose a divisor"
    return None


def _is_whole(file: Path) -> bool:
    """Whether a file of weights is as long as it says: the length of its header in 8 bytes, the header, the values."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
        if not 0 < n_header <= size - 8:
            return False
        try:
            weights = json.loads(stream.read(n_header))
        except ValueError:
            return False
    weights.pop("__metadata__", None)
    return size == 8 + n_header + max((weight["data_offsets"][1] for weight in weights.values()), default=0)
