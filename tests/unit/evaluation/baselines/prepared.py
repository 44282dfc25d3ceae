"""Interactions, split and targets of a synthetic release."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from persona.evaluation.targets import build_targets
from persona.ingestion.synthetic import write_dmsc_csv
from persona.sampling import sample_targets
from persona.splitting import split_users
from tests.ingesting import ingested


def prepared(folder: Path, habits: str, users: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Interactions, split and targets of a synthetic release."""
    write_dmsc_csv(folder / "DMSC.csv", users, 11, habits)  # type: ignore[arg-type]
    tables = ingested(folder / "DMSC.csv")
    split = split_users(tables.users, 0.15, 0.3, 42)
    cohorts = {name: sample_targets(tables.interactions, split, name, 2, None, 42) for name in ("val", "test")}
    return tables.interactions, split, build_targets(cohorts, tables.interactions, 10, 42)
