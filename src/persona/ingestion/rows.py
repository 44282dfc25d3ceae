"""The columns that the reader of every raw format produces, in the order of the file."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import polars as pl

from persona.tables.schemas import FIELD, REJECTS, TURN

MAX_CHARACTERS, MAX_CHARACTERS_OF_A_NAME = 10_000, 1_000
# Categories of characters that show nothing by themselves: blanks, accents, controls, zero-width and other marks; and
# characters of other categories that are as empty: fillers, a blank in Braille, what stands for an attached picture.
INVISIBLE_CATEGORIES = ("Zs", "Zl", "Zp", "Mn", "Mc", "Me", "Cc", "Cf")
FILLERS = "\u115f\u1160\u2800\u3164\uffa0\ufffc"
INVISIBLE = "^[" + "".join(rf"\p{{{category}}}" for category in INVISIBLE_CATEGORIES) + FILLERS + "]*$"
# File, row number, reason, raw text.
Reject = tuple[str, int, str, str]

ROWS: dict[str, Any] = {
    "file": pl.String,
    "row": pl.Int64,
    # The row as written in the file, which a rejected row keeps.
    "raw": pl.String,
    # Why the row is rejected; null if it can be used.
    "reason": pl.String,
    # `user` identifies the user, `key` the interaction among those of the user.
    "user": pl.String,
    "key": pl.String,
    "profile": pl.List(FIELD),
    "item_id": pl.String,
    "title": pl.String,
    "genres": pl.List(pl.String),
    "day": pl.Date,
    # Time: a row with a smaller `moment` is earlier. `row_order` sorts the rows of one moment, where that is known.
    "moment": pl.Int64,
    "row_order": pl.Int64,
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
        rows: parsed rows, with the columns of `ROWS`. Those with a `reason` are rejected later.
        rejects: records that could not be parsed, with the columns of `schemas.REJECTS`.
        n_rows: the number of records. CSV readers count it independently of the parser, so it checks the other two.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    n_rows: int


def make_rejects(rows: list[Reject]) -> pl.DataFrame:
    """Make a table of rejects, with the columns of `schemas.REJECTS`."""
    return pl.DataFrame(rows, schema=REJECTS.columns, orient="row")


def make_batch(rows: list[dict[str, Any]], rejected: list[Reject]) -> Batch:
    """Make a batch from rows of Python values.

    Args:
        rows: values by column of `ROWS`; a missing column is empty.
        rejected: records that could not be parsed.
    """
    empty: dict[str, Any] = dict.fromkeys(ROWS) | {"profile": [], "genres": [], "context": [], "row_order": 0}
    table = pl.DataFrame([empty | row for row in rows], schema=ROWS, orient="row")
    return Batch(table.with_columns(reason=text_reason()), make_rejects(rejected), len(rows) + len(rejected))


def is_visible(text: str) -> bool:
    """Whether a text has a character that shows something by itself."""
    return any(c not in FILLERS and unicodedata.category(c) not in INVISIBLE_CATEGORIES for c in text)


def too_long(column: str) -> pl.Expr:
    """Whether a name has more than `MAX_CHARACTERS_OF_A_NAME` characters."""
    return pl.col(column).str.len_chars() > MAX_CHARACTERS_OF_A_NAME


def text_reason() -> pl.Expr:
    """The `reason` of a row; where it is null, why its text or title cannot be used, if so."""
    return (
        pl.when(pl.col("reason").is_not_null())
        .then("reason")
        .when(pl.col("text").str.contains(INVISIBLE))
        .then(pl.lit("blank text"))
        .when(pl.col("text").str.len_chars() > MAX_CHARACTERS)
        .then(pl.lit(f"text of more than {MAX_CHARACTERS:,} characters"))
        .when(too_long("item_id") | too_long("title"))
        .then(pl.lit(f"item or title of more than {MAX_CHARACTERS_OF_A_NAME:,} characters"))
    )
