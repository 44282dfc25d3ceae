"""What every format is read into: rows of one form, still in the order of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from persona.tables.schemas import FIELD, REJECTS, TURN

MAX_CHARACTERS, MAX_CHARACTERS_OF_A_NAME = 10_000, 1_000

ROWS: dict[str, Any] = {
    "file": pl.String,
    "row": pl.Int64,
    # The row as it stands in the file, for those that are set aside, and why it is; null if it can be used.
    "raw": pl.String,
    "reason": pl.String,
    # What tells users apart, and what tells the interactions of a user apart.
    "user": pl.String,
    "key": pl.String,
    "profile": pl.List(FIELD),
    "item_id": pl.String,
    "title": pl.String,
    "genres": pl.List(pl.String),
    "day": pl.Date,
    # A user's rows of a smaller moment are earlier; within a moment `place` is their order, as far as it is known.
    "moment": pl.Int64,
    "place": pl.Int64,
    "rating": pl.Float32,
    "text": pl.String,
    "likes": pl.Int32,
    "context": pl.List(TURN),
}
NO_PROFILE = pl.lit([], dtype=pl.List(FIELD))
NO_GENRES = pl.lit([], dtype=pl.List(pl.String))
NO_CONTEXT = pl.lit([], dtype=pl.List(TURN))


@dataclass(frozen=True)
class Batch:
    """Some rows of a file.

    Attributes:
        rows: with the columns of `ROWS`.
        rejects: what is no row at all, as `schemas.REJECTS`.
        n_rows: how many there are of both, counted apart from the parser where there is one.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    n_rows: int


def rejects(rows: list[tuple[str, int, str, str]]) -> pl.DataFrame:
    """Rejects from (file, row, reason, raw text)."""
    return pl.DataFrame(rows, schema=REJECTS.columns, orient="row")


def batch(rows: list[dict[str, Any]], rejected: list[tuple[str, int, str, str]]) -> Batch:
    """Rows of Python values as a batch; columns that are not named are empty."""
    empty: dict[str, Any] = dict.fromkeys(ROWS) | {"profile": [], "genres": [], "context": [], "place": 0}
    table = pl.DataFrame([empty | row for row in rows], schema=ROWS, orient="row")
    return Batch(table.with_columns(reason=text_reason()), rejects(rejected), len(rows) + len(rejected))


def too_long(column: str) -> pl.Expr:
    """Whether a name is so long that it is none."""
    return pl.col(column).str.len_chars() > MAX_CHARACTERS_OF_A_NAME


def text_reason() -> pl.Expr:
    """Why the text of a row cannot be used, or null."""
    return (
        pl.when(pl.col("reason").is_not_null())
        .then("reason")
        .when(pl.col("text").str.strip_chars() == "")
        .then(pl.lit("blank text"))
        .when(pl.col("text").str.len_chars() > MAX_CHARACTERS)
        .then(pl.lit(f"text of more than {MAX_CHARACTERS:,} characters"))
        .when(too_long("item_id") | too_long("title"))
        .then(pl.lit(f"item or title of more than {MAX_CHARACTERS_OF_A_NAME:,} characters"))
    )
