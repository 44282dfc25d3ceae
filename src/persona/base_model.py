"""Where a base model is: in a folder, or on the hub by its id and a revision, `organisation/name@revision`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any


def source(path: str) -> dict[str, Any]:
    """The arguments of transformers' `from_pretrained` that say where a model or tokenizer is."""
    if Path(path).is_dir():
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
