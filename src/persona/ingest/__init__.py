"""Any raw format -> interactions, users, items, and what cannot be used with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from persona import artefacts
from persona.errors import PersonaError
from persona.ingest import dmsc_csv


@dataclass(frozen=True)
class Ingested:
    """The four tables of an ingestion and the number of raw rows that they came from."""

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    rejects: pl.DataFrame
    rows_in: int


READERS: dict[str, Callable[[Path], tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame, int]]] = {
    "dmsc_csv": dmsc_csv.read,
}


def ingest(path: Path, data_format: str) -> Ingested:
    """Read a raw file and check that no row got lost.

    Raises:
        PersonaError: the file is missing or of another format, no row of it can be used, or the rows do not
            add up.
    """
    if not path.is_file():
        raise PersonaError(f"{path}: no such file; set the data set's `path` to the raw data")
    tables = Ingested(*READERS[data_format](path))
    kept, rejected = tables.interactions.height, tables.rejects.height
    if tables.rows_in != kept + rejected:
        raise PersonaError(f"{path}: {tables.rows_in} rows in, but {kept} kept and {rejected} rejected")
    if not kept:
        raise PersonaError(f"{path}: none of its {tables.rows_in} rows can be used; is it a {data_format} file?")
    return tables


def write(tables: Ingested, folder: Path) -> None:
    """Write the four tables under their names."""
    artefacts.write_table(tables.interactions, folder / "interactions.parquet", artefacts.INTERACTIONS)
    artefacts.write_table(tables.users, folder / "users.parquet", artefacts.USERS)
    artefacts.write_table(tables.items, folder / "items.parquet", artefacts.ITEMS)
    artefacts.write_table(tables.rejects, folder / "rejects.parquet", artefacts.REJECTS)


def summary(tables: Ingested) -> str:
    """A few lines that say what came in, what was kept and what was set aside why."""
    reasons = tables.rejects.group_by("reason").len().sort("len", "reason", descending=[True, False])
    lines = [
        f"{tables.rows_in:,} rows in = {tables.interactions.height:,} kept + {tables.rejects.height:,} set aside",
        f"{tables.users.height:,} users, {tables.items.height:,} items",
    ]
    return "\n".join(lines + [f"  {count:,} {reason}" for reason, count in reasons.iter_rows()])
