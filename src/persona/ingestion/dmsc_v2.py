"""Douban Movie Short Comments as `dmsc_v2`: a folder with `ratings.csv` and `movies.csv`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from persona.errors import PersonaError
from persona.ingestion.csv_records import CsvForm, read_records
from persona.ingestion.dmsc import as_rows, count
from persona.ingestion.rows import NO_PROFILE, ROWS, Batch
from persona.ingestion.settings import Options
from persona.ingestion.sources import open_raw

RATINGS, MOVIES = "ratings.csv", "movies.csv"
FORM = CsvForm(
    ("userId", "movieId", "rating", "timestamp", "comment", "like"), re.compile(rb"\d+,\d+,[\d.]+,\d{9,10},")
)
MOVIES_FORM = CsvForm(("movieId", "title", "title_cn"), re.compile(rb"\d+,"))
# Timestamps are seconds at midnight in China: in UTC they fall on the day before.
CHINA = 8 * 3600
SECONDS_A_DAY = 86_400
LAST_DAY = 47_482  # 2100-01-01


def recognises(head: bytes) -> bool:
    return FORM.has_header(head)


def read(path: Path, options: Options) -> Iterator[Batch]:
    """Read the folder. Rows are the records of `ratings.csv`; films that cannot be read are rejects of `movies.csv`."""
    movies, batch = _read_movies(path)
    yield batch
    with open_raw(path, RATINGS) as raw:
        for records in read_records(raw, FORM, RATINGS):
            yield Batch(as_rows(_parse(records.table, movies), RATINGS), records.malformed, records.n_rows)


def _read_movies(path: Path) -> tuple[pl.DataFrame, Batch]:
    """`movieId`, `item_id` and `title` of each film; and those that are damaged."""
    with open_raw(path, MOVIES) as raw:
        records = list(read_records(raw, MOVIES_FORM, MOVIES))
    movies = pl.concat([r.table for r in records]).select("movieId", item_id="title", title="title_cn")
    twice = movies.filter(pl.col("movieId").is_duplicated())
    if twice.height:
        raise PersonaError(f"{MOVIES}: movieId {twice['movieId'][0]} occurs more than once")
    malformed = pl.concat([r.malformed for r in records])
    return movies, Batch(pl.DataFrame(schema=ROWS), malformed, malformed.height)


def _parse(records: pl.DataFrame, movies: pl.DataFrame) -> pl.DataFrame:
    seconds = pl.col("timestamp").cast(pl.Int64, strict=False)
    days = (seconds + CHINA).floordiv(SECONDS_A_DAY)
    return (
        records.join(movies, on="movieId", how="left", maintain_order="left")
        .with_columns(
            user=pl.col("userId").str.strip_chars(),
            profile=NO_PROFILE,
            day=days.cast(pl.Int32, strict=False).cast(pl.Date),
            rating=pl.col("rating").cast(pl.Float32, strict=False),
            text=pl.col("comment").str.strip_chars(),
            likes=count("like"),
        )
        .with_columns(reason=_reason(days))
    )


def _reason(days: pl.Expr) -> pl.Expr:
    return (
        pl.when(~pl.col("user").str.contains(r"^\d+$"))
        .then(pl.lit("userId is not a number"))
        .when(pl.col("item_id").is_null())
        .then(pl.lit(f"movieId is not in {MOVIES}"))
        .when(~days.is_between(0, LAST_DAY).fill_null(False))
        .then(pl.lit("timestamp is not seconds since 1970"))
        .when(pl.col("likes").is_null() & (pl.col("like").str.strip_chars() != ""))
        .then(pl.lit("number of likes is not a number"))
    )
