"""Prompts of small data, for the tests of rendering and of tokenization."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from persona.ingestion.ingest import Ingested
from persona.prompts import Parts, PromptSpec, load_style, render

STYLES = Path(__file__).parents[2] / "config" / "prompts"

TASK, CUE = "预测用户会写的影评", "预测用户的影评："


def prompts_of(tables: Ingested, style: str, parts: Parts, targets: pl.DataFrame | None = None) -> pl.DataFrame:
    if targets is None:
        targets = tables.interactions.select("interaction_id", "user_id", "item_id")
    users, items = tables.users, tables.items
    spec = PromptSpec(load_style(STYLES / f"{style}.yaml"), parts, TASK, CUE)
    return render(targets, tables.interactions, users, items, spec)
