"""Prompts of more than one module of tests."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from benchmarks.corpus import write_long_histories

from persona.prompts import Parts
from tests.ingesting import ingested
from tests.unit.rendering import prompts_of


@pytest.fixture(scope="module")
def long_histories(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Prompts of three users with 60 reviews each, some of which are many entries."""
    folder = tmp_path_factory.mktemp("long")
    write_long_histories(folder / "DMSC.csv", 3, 60)
    tables = ingested(folder / "DMSC.csv")
    long = pl.when(pl.col("position") % 17 == 5).then(pl.col("text").repeat_by(9).list.join("")).otherwise("text")
    tables = replace(tables, interactions=tables.interactions.with_columns(text=long))
    return prompts_of(tables, "detailed", Parts(profile=True, history=True, context=False))
