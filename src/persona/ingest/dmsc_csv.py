"""Douban Movie Short Comments as published on Kaggle: one CSV of ten columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv

from persona.errors import PersonaError
from persona.hashing import hash64_series, mix64

COLUMNS = [
    "ID",
    "Movie_Name_EN",
    "Movie_Name_CN",
    "Crawl_Date",
    "Number",
    "Username",
    "Date",
    "Star",
    "Comment",
    "Like",
]
ENCODING = "utf-8-sig"

_NO_NAME = ["", "na", "null"]
_NO_CONTEXT = pl.List(pl.Struct({"speaker": pl.String, "text": pl.String}))


def read(path: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame, int]:
    """Read the CSV; return interactions, users, items, rejects and the number of raw rows.

    Rows are counted as records (a comment may run over several lines), the first after the header being 1.
    """
    rows, malformed = _read_records(path)
    rows = _parse(rows)
    reasoned = rows.with_columns(reason=_reason())
    reasoned = _mark_duplicates(reasoned)
    kept = _identify(reasoned.filter(pl.col("reason").is_null()))
    rejects = pl.concat([_rejects(reasoned.filter(pl.col("reason").is_not_null()), path), malformed])
    return _interactions(kept), _users(kept), _items(kept), rejects, rows.height + malformed.height


def _read_records(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The well-formed records as bytes with their row numbers, and the malformed ones as rejects."""
    _check_header(path)
    malformed: list[tuple[str, int, str, str]] = []

    def set_aside(row: pa.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} columns instead of {row.expected_columns}"
        malformed.append((path.name, row.number - 1, reason, row.text))
        return "skip"

    table = _read_csv(path, set_aside)
    rejects = pl.DataFrame(
        malformed, schema={"file": pl.String, "row": pl.Int64, "reason": pl.String, "raw": pl.String}, orient="row"
    )
    numbers = np.arange(1, table.num_rows + rejects.height + 1)
    numbers = np.delete(numbers, rejects["row"].to_numpy() - 1)
    rows = pl.DataFrame(pl.from_arrow(table))
    return rows.with_columns(row=pl.Series(numbers)), rejects


def _read_csv(path: Path, set_aside: Callable[[pa.csv.InvalidRow], str]) -> pa.Table:
    # One thread, because only then do malformed rows come with their number.
    try:
        return pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 24),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.large_binary() for name in COLUMNS}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise PersonaError(f"{path}: cannot be read as CSV: {error}") from error


def _check_header(path: Path) -> None:
    with path.open(encoding=ENCODING, errors="replace", newline="") as file:
        header = next(csv.reader(file), [])
    if header != COLUMNS:
        raise PersonaError(
            f"{path}: the header is {','.join(header)[:200] or 'empty'}, but format dmsc_csv has {','.join(COLUMNS)}"
        )


def _parse(rows: pl.DataFrame) -> pl.DataFrame:
    """Typed columns beside the raw bytes; what does not parse is null."""
    text = {name: pl.col(name).cast(pl.String, strict=False).str.strip_chars() for name in COLUMNS}
    return rows.with_columns(
        is_utf8=~pl.any_horizontal(column.is_null() for column in text.values()),
        username=text["Username"],
        item_id=text["Movie_Name_EN"],
        title=text["Movie_Name_CN"],
        day=text["Date"].str.to_date("%Y-%m-%d", strict=False),
        rating=text["Star"].cast(pl.Float32, strict=False),
        text=text["Comment"],
        likes=text["Like"].cast(pl.Int32, strict=False),
    )


def _reason() -> pl.Expr:
    """Why a row cannot be used, or null. The first reason that applies is given."""
    return (
        pl.when(~pl.col("is_utf8"))
        .then(pl.lit("not UTF-8"))
        .when(pl.col("username").str.to_lowercase().is_in(_NO_NAME))
        .then(pl.lit("no username"))
        .when((pl.col("item_id") == "") | (pl.col("title") == ""))
        .then(pl.lit("no film"))
        .when(pl.col("day").is_null())
        .then(pl.lit("date is not YYYY-MM-DD"))
        .when(~pl.col("rating").is_in([1.0, 2.0, 3.0, 4.0, 5.0]).fill_null(False))
        .then(pl.lit("star is not 1 to 5"))
        .when(pl.col("text") == "")
        .then(pl.lit("blank comment"))
        .otherwise(None)
    )


def _mark_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    """Of several reviews of a film under one username the first written is kept.

    Rows of one day are ordered by what they say, never by where they stand in the file.
    """
    usable = rows.filter(pl.col("reason").is_null())
    order = usable.select("row", "username", "item_id", "day", "text", "rating", "likes", "ID").sort(
        "username", "item_id", "day", "text", "rating", "likes", "ID"
    )
    repeated = order.filter(~pl.struct("username", "item_id").is_first_distinct())["row"]
    duplicate = pl.col("row").is_in(repeated.implode())
    return rows.with_columns(
        reason=pl.when(duplicate).then(pl.lit("another review of this film by this user")).otherwise("reason")
    )


def _identify(rows: pl.DataFrame) -> pl.DataFrame:
    """Ids from the data: a user is a hash of the username, a review a hash of user and film."""
    users = hash64_series(rows["username"])
    interactions = mix64(users ^ mix64(hash64_series(rows["item_id"]), seed=0), seed=0) >> np.uint64(1)
    return rows.with_columns(
        user_hash=pl.Series(users),
        interaction_id=pl.Series(interactions.astype(np.int64)),
    ).with_columns(user_id=_hexadecimal(pl.Series(users)))


def _hexadecimal(values: pl.Series) -> pl.Series:
    """Unsigned integers as 16 hexadecimal digits, the form of `USER_HASH`."""
    digits = values.to_numpy().astype(">u8").tobytes().hex()
    return pl.Series([digits[i : i + 16] for i in range(0, len(digits), 16)], dtype=pl.String)


def _interactions(rows: pl.DataFrame) -> pl.DataFrame:
    ordered = rows.sort("user_id", "day", "interaction_id")
    return ordered.with_columns(
        position=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id"),
        context=pl.lit([], dtype=_NO_CONTEXT),
    )


def _users(rows: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.select("user_id", "username")
        .unique()
        .select("user_id", profile=pl.concat_list(pl.struct(field=pl.lit("name"), value="username")))
    )


def _items(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a film; the release names no genres."""
    films = rows.group_by("item_id").agg(pl.col("title").mode().sort().first())
    return films.with_columns(genres=pl.lit([], dtype=pl.List(pl.String)))


def _rejects(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    raw = [_csv_line(values) for values in rows.select(COLUMNS).iter_rows()]
    return rows.select(
        file=pl.lit(path.name), row=pl.col("row").cast(pl.Int64), reason="reason", raw=pl.Series(raw, dtype=pl.String)
    )


def _csv_line(values: tuple[bytes, ...]) -> str:
    """The record as it stood in the file; bytes that are not UTF-8 as \\x escapes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([value.decode(errors="backslashreplace") for value in values])
    return line.getvalue()
