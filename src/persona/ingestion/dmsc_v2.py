"""The `dmsc_v2` release of Douban Movie Short Comments: a folder with `ratings.csv` and `movies.csv`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from persona.errors import PersonaError
from persona.ingestion.csv_records import CsvForm, read_records
from persona.ingestion.dmsc import as_rows, parse_count
from persona.ingestion.rows import NO_PROFILE, ROWS, Batch
from persona.ingestion.settings import Options
from persona.ingestion.sources import open_raw

RATINGS, MOVIES = "ratings.csv", "movies.csv"
FORM = CsvForm(
    ("userId", "movieId", "rating", "timestamp", "comment", "like"), re.compile(rb"\d+,\d+,[\d.]+,\d{9,10},")
)
MOVIES_FORM = CsvForm(("movieId", "title", "title_cn"), re.compile(rb"\d+,"))
# Timestamps are midnight in China, which in UTC is on the day before.
CHINA = 8 * 3600
SECONDS_PER_DAY = 86_400
LAST_DAY = 47_482  # 2100-01-01


def recognises(head: bytes) -> bool:
    """Whether a `ratings.csv` that begins with `head` is of this format."""
    return FORM.has_header(head)


def read(path: Path, options: Options) -> Iterator[Batch]:
    """Read the folder. Rows are the records of `ratings.csv`; malformed records of `movies.csv` are rejected too.

    Raises:
        PersonaError: a `movieId` occurs more than once in `movies.csv`.
    """
    movies, batch = _read_movies(path)
    yield batch
    with open_raw(path, RATINGS) as raw:
        for records in read_records(raw, FORM, RATINGS):
            yield Batch(as_rows(_parse(records.table, movies), RATINGS), records.malformed, records.n_rows)


def _read_movies(path: Path) -> tuple[pl.DataFrame, Batch]:
    """Read `movieId`, `item_id` and `title` of each film, and a batch of the malformed records."""
    with open_raw(path, MOVIES) as raw:
        records = list(read_records(raw, MOVIES_FORM, MOVIES))
    movies = pl.concat([r.table for r in records]).select("movieId", item_id="title", title="title_cn")
    repeated = movies.filter(pl.col("movieId").is_duplicated())
    if repeated.height:
        raise PersonaError(f"{MOVIES}: movieId {repeated['movieId'][0]} occurs more than once; keep one of its records")
    malformed = pl.concat([r.malformed for r in records])
    return movies, Batch(pl.DataFrame(schema=ROWS), malformed, malformed.height)


def _parse(records: pl.DataFrame, movies: pl.DataFrame) -> pl.DataFrame:
    seconds = pl.col("timestamp").cast(pl.Int64, strict=False)
    days = (seconds + CHINA).floordiv(SECONDS_PER_DAY)
    return (
        records.join(movies, on="movieId", how="left", maintain_order="left")
        .with_columns(
            user=pl.col("userId").str.strip_chars(),
            profile=NO_PROFILE,
            day=days.cast(pl.Int32, strict=False).cast(pl.Date),
            rating=pl.col("rating").cast(pl.Float32, strict=False),
            text=pl.col("comment").str.strip_chars(),
            likes=parse_count("like"),
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
