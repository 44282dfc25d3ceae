"""Data of more than one module of unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.corpus import qwen_tokenizer

from persona.ingestion.ingest import Ingested
from persona.modeling.processes import process_group
from persona.modeling.tiny import train_tokenizer
from tests.ingesting import ingested
from tests.unit.ingestion.examples import raw_row, write_raw


@pytest.fixture
def small(tmp_path: Path) -> Ingested:
    """One user with three films on two days, and a review after them."""
    rows = [
        raw_row(film="B", day="2016-01-02", star="3", comment=" 一般"),
        raw_row(film="A", day="2016-01-01", star="5", comment=" 好"),
        raw_row(film="C", day="2016-01-02", star="1", comment=" 差"),
        raw_row(film="D", day="2016-02-01", star="4", comment=" 不错"),
    ]
    return ingested(write_raw(tmp_path / "DMSC.csv", rows))


@pytest.fixture(scope="module")
def one_process() -> Iterator[None]:
    """A process group of the test's own process, for what else runs under torchrun."""
    with process_group(deepspeed=False):
        yield


@pytest.fixture(scope="session")
def tokenizer(tables: Ingested) -> Any:
    """Shared by all tests, which must not change it."""
    return train_tokenizer(tables.interactions["text"].to_list(), vocab_size=800)


@pytest.fixture(scope="session")
def qwen() -> Any:
    """Qwen's tokenizer; shared by all tests, which must not change it."""
    return qwen_tokenizer()
