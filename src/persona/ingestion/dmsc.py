"""What the two releases of Douban Movie Short Comments have in common."""

from __future__ import annotations

import polars as pl

from persona.ingestion.rows import NO_CONTEXT, NO_GENRES, ROWS, text_reason

SECOND_REVIEW = "another review of this film by this user"
_DAYS = pl.Int64


def as_rows(rows: pl.DataFrame, file: str) -> pl.DataFrame:
    """Complete parsed records: `user`, `profile`, `item_id`, `title`, `day`, `rating`, `text`, `likes`, `reason`.

    A user reviews a film once, so the film is the key. Of the time no more is known than the day.
    """
    return rows.with_columns(
        file=pl.lit(file),
        key="item_id",
        genres=NO_GENRES,
        context=NO_CONTEXT,
        moment=pl.col("day").cast(pl.Int32).cast(_DAYS),
        place=pl.lit(0, dtype=pl.Int64),
        reason=pl.when(pl.col("reason").is_not_null()).then("reason").otherwise(review_reason()),
    ).select(pl.col(name).cast(dtype) for name, dtype in ROWS.items())


def review_reason() -> pl.Expr:
    """Why a review cannot be used, or null. The first reason that applies is given."""
    return (
        pl.when((pl.col("item_id") == "") | (pl.col("title") == ""))
        .then(pl.lit("no film"))
        .when(~pl.col("rating").is_in([1.0, 2.0, 3.0, 4.0, 5.0]).fill_null(False))
        .then(pl.lit("star is not 1 to 5"))
        .otherwise(text_reason())
    )


def count(column: str) -> pl.Expr:
    """A column of text as a number of likes; null where it is none."""
    return pl.col(column).str.strip_chars().cast(pl.Int32, strict=False)
