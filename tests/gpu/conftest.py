"""Checks that need a CUDA GPU. Where there is none, each is skipped by name. The last line printed is a JSON object."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

FIGURES: dict[str, Any] = {}
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def figures(device: torch.device) -> dict[str, Any]:
    """What was measured, by name; printed at the end."""
    properties = torch.cuda.get_device_properties(device)
    FIGURES["device"] = properties.name
    FIGURES["memory_gib"] = round(properties.total_memory / 2**30, 1)
    FIGURES["torch"] = torch.__version__
    return FIGURES


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


def pytest_unconfigure() -> None:
    if FIGURES:
        print(json.dumps(FIGURES))
