"""The preview shows samples as the model sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from persona.ingestion.ingest import Ingested
from persona.prompts import Parts
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tokenization.preview import preview, read_lengths
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize
from tests.unit.rendering import prompts_of


def preview_of(prompts: pl.DataFrame, max_length: int, tokenizer: Any, folder: Path) -> str:
    fit = FitSettings(max_length=max_length)
    write_table(prompts, folder / "prompts.parquet", schemas.PROMPTS)
    write_table(tokenize(prompts, tokenizer, fit), folder / "tokens.parquet", schemas.TOKENS)
    paths = folder / "prompts.parquet", folder / "tokens.parquet"
    return preview(read_lengths(*paths), *paths, tokenizer, 4, fit, 0)


def test_the_preview_shows_the_tokens_with_loss_and_counts_what_was_trimmed(
    small: Ingested, tables: Ingested, tokenizer: Any, tmp_path: Path
) -> None:
    prompts = prompts_of(small, "simple", Parts(profile=False, history=True, context=False))
    last = prompts.filter(pl.col("completion") == "不错")
    text = preview_of(last, 400, tokenizer, tmp_path)
    assert text.count("===") == 1
    assert "[TASK]\n预测用户会写的影评" in text and ">>>不错<|im_end|>" in text
    assert "history 3 entries, 0 dropped" in text

    prompts = prompts_of(tables, "detailed", Parts(profile=True, history=True, context=True))
    tokens = tokenize(prompts, tokenizer, FitSettings(max_length=256))
    trimmed = tokens.filter(pl.col("n_history_dropped") > 0)
    assert trimmed.height > 0
    expected = f"history trimmed: {trimmed.height:,} samples, {trimmed['n_history_dropped'].sum():,} entries"
    text = preview_of(prompts, 256, tokenizer, tmp_path)
    n_long = (tokens["input_ids"].list.len() - tokens["prompt_length"] > 64).sum()
    n_cut = tokens["is_cut_for_completion"].sum()
    assert expected in text
    assert (
        f"longer than the 64 tokens reserved for the completion: {n_long}, of which {n_cut} were trimmed more" in text
    )
