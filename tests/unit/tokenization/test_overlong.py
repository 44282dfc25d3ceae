"""Targets that do not fit are listed with their rows, counted, and the same for all models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from persona.errors import PersonaError
from persona.ingestion.ingest import Ingested
from persona.prompts import Parts
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tokenization.outputs import Outputs
from persona.tokenization.overlong import check_same_targets
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize
from tests.unit.rendering import prompts_of

FIT = FitSettings(max_length=500)


def outputs_of(tables: Ingested, tokenizer: Any, folder: Path, share: float) -> pl.DataFrame:
    """Prompts and tokens of small data, with what is written beside them; the table of what does not fit."""
    prompts = prompts_of(tables, "simple", Parts(profile=True, history=True, context=True))
    write_table(tables.interactions, folder / "interactions.parquet", schemas.INTERACTIONS)
    write_table(prompts, folder / "prompts.parquet", schemas.PROMPTS)
    write_table(tokenize(prompts, tokenizer, FIT), folder / "tokens.parquet", schemas.TOKENS)
    names = {"interactions": "interactions.parquet", "overlong": "o.parquet", "preview": "p.txt", "trimming": "t.json"}
    files = {name: str(folder / file) for name, file in names.items()}
    outputs = Outputs.parse(json.dumps(files | {"max_reject_share": share}))
    outputs.write(folder / "prompts.parquet", folder / "tokens.parquet", tokenizer, FIT)
    return read_table(folder / "o.parquet", schemas.OVERLONG)


def with_long_text(tables: Ingested, *positions: int) -> Ingested:
    """Small data in which some texts are too long."""
    text = pl.when(pl.col("position").is_in(positions)).then(pl.lit("长" * 300)).otherwise("text")
    return replace(tables, interactions=tables.interactions.with_columns(text=text))


def test_a_text_that_does_not_fit_is_set_aside_with_its_row(small: Ingested, tokenizer: Any, tmp_path: Path) -> None:
    tables = with_long_text(small, 3)
    row = outputs_of(tables, tokenizer, tmp_path, 0.1).row(0, named=True)
    expected = tables.interactions.filter(position=3).row(0, named=True)
    assert {name: row[name] for name in ("file", "row", "interaction_id")} == {
        name: expected[name] for name in ("file", "row", "interaction_id")
    }
    assert row["n_tokens"] > 500 and row["reason"].startswith("text of ")
    counts = json.loads((tmp_path / "t.json").read_text())
    assert (counts["targets"], counts["set_aside"]) == (3, 1)
    assert "1 samples set aside because they do not fit" in (tmp_path / "p.txt").read_text(encoding="utf-8")


def test_more_than_max_reject_share_stop_the_run(small: Ingested, tokenizer: Any, tmp_path: Path) -> None:
    tables = with_long_text(small, 1, 3)
    assert outputs_of(tables, tokenizer, tmp_path, 0.5).height == 2
    message = r"2 of 4 targets do not fit max_length 500 .* max_reject_share 0\.1 .*, row \d+: text of "
    with pytest.raises(PersonaError, match=message):
        outputs_of(tables, tokenizer, tmp_path, 0.1)
    assert read_table(tmp_path / "o.too_many.parquet", schemas.OVERLONG).height == 2


def test_where_none_may_be_set_aside_one_stops_the_run(small: Ingested, tokenizer: Any, tmp_path: Path) -> None:
    """As for impostors, all of whom an evaluation needs."""
    with pytest.raises(PersonaError, match=r"1 of 4 targets do not fit .* more than max_reject_share 0\.0 allows"):
        outputs_of(with_long_text(small, 3), tokenizer, tmp_path, 0.0)


def test_a_profile_that_does_not_fit_is_named(small: Ingested, tokenizer: Any, tmp_path: Path) -> None:
    long = pl.lit([{"field": "about", "value": "我" * 900}], dtype=small.users.schema["profile"])
    with pytest.raises(PersonaError, match=r"prompt of .* tokens .*; its longest line begins '\[USER_ABOUT=我我"):
        outputs_of(replace(small, users=small.users.with_columns(profile=long)), tokenizer, tmp_path, 1.0)


def test_all_models_must_leave_out_the_same_targets(small: Ingested, tokenizer: Any, tmp_path: Path) -> None:
    one = outputs_of(with_long_text(small, 3), tokenizer, tmp_path, 1.0)
    two = outputs_of(with_long_text(small, 1, 3), tokenizer, tmp_path, 1.0)
    check_same_targets({"stage a": one, "stage b": one.with_columns(n_tokens=pl.lit(999, dtype=pl.Int32))})
    for tables in ({"stage a": one, "stage b": two}, {"stage b": two, "stage a": one}):
        with pytest.raises(PersonaError, match=r"stage b leaves out 1 targets that stage a has, such as .*, row \d+: "):
            check_same_targets(tables)
