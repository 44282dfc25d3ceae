"""Douban Movie Short Comments as published on Kaggle: one CSV of ten columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from persona.ingestion.csv_records import CsvForm, read_records
from persona.ingestion.dmsc import as_rows, parse_count
from persona.ingestion.rows import MAX_CHARACTERS_OF_A_NAME, NO_PROFILE, Batch, too_long
from persona.ingestion.settings import Options
from persona.ingestion.sources import open_raw
from persona.tables.schemas import FIELD

# A record begins with an ID, two names and the day of the crawl; a line within a comment hardly ever does.
FORM = CsvForm(
    ("ID", "Movie_Name_EN", "Movie_Name_CN", "Crawl_Date", "Number", "Username", "Date", "Star", "Comment", "Like"),
    re.compile(rb'\d+,[^,"\n]*,[^,"\n]*,\d{4}-\d{2}-\d{2},'),
)
DAY = r"^\d{4}-\d{2}-\d{2}$"
_NO_NAME = ["", "na", "null"]


def recognises(head: bytes) -> bool:
    """Whether a file that begins with `head` is of this format."""
    return FORM.has_header(head)


def read(path: Path, options: Options) -> Iterator[Batch]:
    """Read the CSV. A row is a record, which may span several lines; the first record after the header is row 1."""
    with open_raw(path) as raw:
        for records in read_records(raw, FORM, path.name):
            yield Batch(as_rows(_parse(records.table, options), path.name), records.malformed, records.n_rows)


def _parse(records: pl.DataFrame, options: Options) -> pl.DataFrame:
    text = {name: pl.col(name).str.strip_chars() for name in FORM.columns}
    return records.with_columns(
        user=text["Username"],
        profile=NO_PROFILE if options.pseudonymise else _profile(text["Username"]),
        item_id=text["Movie_Name_EN"],
        title=text["Movie_Name_CN"],
        day=pl.when(text["Date"].str.contains(DAY)).then(text["Date"].str.to_date("%Y-%m-%d", strict=False)),
        rating=text["Star"].cast(pl.Float32, strict=False),
        text=text["Comment"],
        likes=parse_count("Like"),
    ).with_columns(reason=_reason())


def _profile(name: pl.Expr) -> pl.Expr:
    return pl.concat_list(pl.struct(field=pl.lit("name"), value=name)).cast(pl.List(FIELD))


def _reason() -> pl.Expr:
    """Check all columns, also unused ones: if one has a wrong form, the columns of the record may be shifted."""
    number = r"^\d+$"
    return (
        pl.when(~pl.col("ID").str.contains(number) | ~pl.col("Number").str.contains(number))
        .then(pl.lit("ID or Number is not a number"))
        .when(~pl.col("Crawl_Date").str.contains(DAY))
        .then(pl.lit("crawl date is not YYYY-MM-DD"))
        .when(pl.col("user").str.to_lowercase().is_in(_NO_NAME))
        .then(pl.lit("no username"))
        .when(too_long("user"))
        .then(pl.lit(f"username of more than {MAX_CHARACTERS_OF_A_NAME:,} characters"))
        .when(pl.col("day").is_null())
        .then(pl.lit("date is not YYYY-MM-DD"))
        .when(pl.col("likes").is_null() & (pl.col("Like").str.strip_chars() != ""))
        .then(pl.lit("number of likes is not a number"))
    )
