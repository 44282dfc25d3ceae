"""Where a base model is: in a folder, or on the hub by its id and a revision, `organisation/name@revision`."""

from __future__ import annotations

from pathlib import Path


def source(path: str) -> dict[str, str]:
    """The arguments of transformers' `from_pretrained` that say where a model or tokenizer is."""
    name, _, revision = path.partition("@")
    if Path(path).is_dir() or not revision:
        return {"pretrained_model_name_or_path": path}
    return {"pretrained_model_name_or_path": name, "revision": revision}
