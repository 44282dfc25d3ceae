"""A tiny model of two layers and the tokens of a few targets."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from persona import artefacts
from persona.ingest import Ingested
from persona.modeling.tiny import write_tiny_model
from persona.prompts import Parts, load_style, render
from persona.tokenization import load_tokenizer, tokenize

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folder(tables: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tokens.parquet` of 24 targets and a model at `base`; trainings put their outputs beside them."""
    folder = tmp_path_factory.mktemp("training")
    targets = tables.interactions.filter(pl.col("position") == 2).head(24)
    style = load_style(ROOT / "config" / "prompts" / "detailed.yaml")
    prompts = render(targets, tables.interactions, tables.users, tables.items, style, Parts(True, True, True), "T", "C")
    texts = tables.interactions["text"].to_list()
    write_tiny_model(texts, folder / "base", 500, hidden_size=64, num_hidden_layers=2, num_experts=4, seed=0)
    tokens = tokenize(prompts, load_tokenizer(str(folder / "base")), 400)
    artefacts.write_table(tokens, folder / "tokens.parquet", artefacts.TOKENS)
    return folder
