"""Code shared by the readers of the two releases of Douban Movie Short Comments (DMSC)."""

from __future__ import annotations

import polars as pl

from persona.ingestion.rows import NO_CONTEXT, NO_GENRES, ROWS, text_reason

SECOND_REVIEW = "another review of this film by this user"


def as_rows(rows: pl.DataFrame, file: str) -> pl.DataFrame:
    """Turn parsed records into rows with the columns of `ROWS`.

    A user reviews a film once, so the film is the key. Only the day of a review is known, so it is the moment.

    Args:
        rows: with `row`, `raw`, `user`, `profile`, `item_id`, `title`, `day`, `rating`, `text`, `likes`, `reason`.
    """
    return rows.with_columns(
        file=pl.lit(file),
        key="item_id",
        genres=NO_GENRES,
        context=NO_CONTEXT,
        moment=pl.col("day").cast(pl.Int32).cast(pl.Int64),
        row_order=pl.lit(0, dtype=pl.Int64),
        reason=pl.when(pl.col("reason").is_not_null()).then("reason").otherwise(review_reason()),
    ).select(pl.col(name).cast(dtype) for name, dtype in ROWS.items())


def review_reason() -> pl.Expr:
    """The first reason why a review cannot be used, or null."""
    return (
        pl.when((pl.col("item_id") == "") | (pl.col("title") == ""))
        .then(pl.lit("no film"))
        .when(~pl.col("rating").is_in([1.0, 2.0, 3.0, 4.0, 5.0]).fill_null(False))
        .then(pl.lit("star is not 1 to 5"))
        .otherwise(text_reason())
    )


def parse_count(column: str) -> pl.Expr:
    """Parse a column of text as whole numbers; null where it is none."""
    return pl.col(column).str.strip_chars().cast(pl.Int32, strict=False)
