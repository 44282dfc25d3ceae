"""Lets vLLM write texts, in a process of vLLM's own environment, whose packages differ from those of the training."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from persona.errors import PersonaError

WORKER = Path(__file__).with_name("vllm_worker.py")
# What torchrun tells its processes.
NOT_PASSED_ON = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PREFIXES = ("TORCHELASTIC_", "GROUP_", "ROLE_")


@dataclass(frozen=True)
class Requests:
    """The texts to write; see `vllm_worker.py`."""

    model: str
    revision: str | None
    dtype: str
    prompts: list[list[int]]
    texts: Sequence[tuple[int, int | None]]
    temperature: float
    max_tokens: int
    end: int
    processes: int


def write_with_vllm(python: str, requests: Requests) -> tuple[list[list[int]], str]:
    """The tokens of each text, and the name and version of the package that wrote them.

    Args:
        python: the interpreter of the environment that has vLLM.

    Raises:
        PersonaError: it is not there, or vLLM fails; what it printed is in the log.
    """
    require_python(python)
    environment = {
        name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON and not name.startswith(PREFIXES)
    }
    with TemporaryDirectory() as place:
        asked, written = Path(place, "requests.json"), Path(place, "texts.json")
        asked.write_text(json.dumps(asdict(requests)), encoding="utf-8")
        # Isolated: the folder of the worker, which has modules of this library, is no place to import from.
        run = subprocess.run([python, "-I", str(WORKER), str(asked), str(written)], env=environment, check=False)
        if run.returncode or not written.is_file():
            raise PersonaError(
                f"vLLM ({python}) could not write the texts (exit status {run.returncode}); its reason is above in "
                "this log. generation.backend: transformers writes them without it"
            )
        answer = json.loads(written.read_text(encoding="utf-8"))
    return answer["tokens"], answer["version"]


def require_python(python: str) -> None:
    """Make sure that the interpreter is there.

    Raises:
        PersonaError: it is not.
    """
    if not os.access(python, os.X_OK):
        raise PersonaError(
            f"generation.vllm_python: {python} is not there; make an environment with vLLM (make vllm, see "
            "docs/serving.md), or set generation.backend: transformers"
        )
