"""Teach a language model to write what one particular user would write next.

The functions below are imported when they are first used, so `import persona` itself is quick. See docs/python.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from persona.errors import explain_missing_package

if TYPE_CHECKING:
    from persona.evaluation.evaluate import evaluate
    from persona.ingestion.ingest import ingest
    from persona.prompts import render
    from persona.sampling import sample_targets
    from persona.splitting import split_users
    from persona.tokenization.tokenize import tokenize
    from persona.training.train import train

__version__ = "0.1.0"
__all__ = ["evaluate", "ingest", "render", "sample_targets", "split_users", "tokenize", "train"]

_MODULES = {
    "evaluate": "persona.evaluation.evaluate",
    "ingest": "persona.ingestion.ingest",
    "render": "persona.prompts",
    "sample_targets": "persona.sampling",
    "split_users": "persona.splitting",
    "tokenize": "persona.tokenization.tokenize",
    "train": "persona.training.train",
}


def __getattr__(name: str) -> Any:
    """Import a function when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(explain_missing_package(error), name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
