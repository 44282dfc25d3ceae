"""Douban Movie Short Comments as published on Kaggle: one CSV of ten columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.csv

from persona import artefacts
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
# ID, two names, the day of the crawl: what a record begins with and a line of a comment does not.
RECORD_START = re.compile(rb'\d+,[^,"\n]*,[^,"\n]*,\d{4}-\d{2}-\d{2},')
BLOCK = 16 << 20
HEADER_LIMIT = 4096

_NO_NAME = ["", "na", "null"]
_NO_CONTEXT = pl.List(pl.Struct({"speaker": pl.String, "text": pl.String}))


def read(path: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame, int]:
    """Read the CSV; return interactions, users, items, rejects and the number of raw rows.

    Rows are counted as records (a comment may run over several lines), the first after the header being 1.
    """
    rows, malformed, n_rows = _read_records(path)
    reasoned = _parse(rows).with_columns(reason=_reason())
    reasoned = _mark_duplicates(reasoned)
    kept = _identify(reasoned.filter(pl.col("reason").is_null()))
    rejects = pl.concat([_rejects(reasoned.filter(pl.col("reason").is_not_null()), path), malformed])
    return _interactions(kept), _users(kept), _items(kept), rejects, n_rows


def _read_records(path: Path) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The well-formed records with their row numbers, the malformed ones as rejects, and how many there are.

    The number is counted on the bytes, apart from the parser, so that the caller's sum is a check.
    """
    tables: list[pa.Table] = []
    numbers: list[npt.NDArray[np.int64]] = []
    malformed: list[tuple[str, int, str, str]] = []
    n_rows = n_counted = 0
    for block in _blocks(path):
        for text, reason in _clean_runs(block):
            if reason is not None:
                n_rows += 1
                n_counted += 1
                malformed.append((path.name, n_rows, reason, text.decode(errors="backslashreplace").rstrip("\r\n")))
                continue
            table, invalid = _read_csv(text, path)
            here = n_rows + np.arange(1, table.num_rows + len(invalid) + 1)
            malformed += [(path.name, n_rows + number, reason, raw) for number, reason, raw in invalid]
            numbers.append(np.delete(here, [number - 1 for number, _, _ in invalid]))
            tables.append(table)
            n_rows += len(here)
            n_counted += _count_records(text)
    rejects = pl.DataFrame(malformed, schema=artefacts.REJECTS.columns, orient="row")
    if not tables:
        return pl.DataFrame(schema={**dict.fromkeys(COLUMNS, pl.String), "row": pl.Int64}), rejects, n_counted
    rows = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))
    return rows.with_columns(row=pl.Series(np.concatenate(numbers), dtype=pl.Int64)), rejects, n_counted


def _blocks(path: Path) -> Iterator[bytes]:
    """The file after its header in blocks of whole records."""
    _check_header(path)
    with path.open("rb") as file:
        file.readline()
        carried = b""
        while chunk := file.read(BLOCK):
            carried += chunk
            starts = _record_starts(carried)
            if len(starts) > 1:
                yield carried[: starts[-1]]
                carried = carried[starts[-1] :]
        if carried.strip():
            yield carried


def _record_starts(block: bytes) -> npt.NDArray[np.int64]:
    """Where a line begins that can only be a new record, whatever quotes were left open before it."""
    line_starts = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")) + 1
    starts = [start for start in line_starts.tolist() if RECORD_START.match(block, start)]
    return np.array([0, *starts], dtype=np.int64)


def _clean_runs(block: bytes) -> Iterator[tuple[bytes, str | None]]:
    """The block in runs of well-formed records (reason None), and each damaged record with its reason."""
    starts = _record_starts(block)
    ends = np.append(starts[1:], len(block))
    quotes = np.add.reduceat(np.frombuffer(block, dtype=np.uint8) == ord('"'), starts, dtype=np.int64)
    reasons = dict.fromkeys(np.flatnonzero(quotes % 2).tolist(), "a quote is not closed")
    if not _is_utf8(block):
        damaged = [n for n in range(len(starts)) if not _is_utf8(block[starts[n] : ends[n]])]
        reasons |= dict.fromkeys(damaged, "not UTF-8")
    begin = 0
    for n in sorted(reasons):
        if starts[n] > begin:
            yield block[begin : starts[n]], None
        yield block[starts[n] : ends[n]], reasons[n]
        begin = int(ends[n])
    if begin < len(block):
        yield block[begin:], None


def _count_records(text: bytes) -> int:
    """Lines that end outside of quotes and are not empty."""
    characters = np.frombuffer(text.rstrip(b"\r\n") + b"\n", dtype=np.uint8)
    outside = np.cumsum(characters == ord('"')) % 2 == 0
    ends = np.flatnonzero((characters == ord("\n")) & outside)
    starts = np.concatenate([[0], ends[:-1] + 1])
    blank = (ends == starts) | ((ends == starts + 1) & (characters[starts] == ord("\r")))
    return int((~blank).sum())


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_csv(text: bytes, path: Path) -> tuple[pa.Table, list[tuple[int, str, str]]]:
    """Parse records; return the table and, of those with a wrong number of columns, number, reason and text."""
    invalid: list[tuple[int, str, str]] = []

    def set_aside(row: pa.csv.InvalidRow) -> str:
        invalid.append((row.number, f"{row.actual_columns} columns instead of {row.expected_columns}", row.text))
        return "skip"

    try:
        # One thread, because only then do malformed rows come with their number.
        table = pa.csv.read_csv(
            pa.BufferReader(text),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=COLUMNS),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.large_string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise PersonaError(f"{path}: cannot be read as CSV: {error}") from error
    return table, invalid


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        line = file.readline(HEADER_LIMIT).decode(ENCODING, errors="backslashreplace").rstrip("\r\n")
    if [name.strip('"') for name in line.split(",")] != COLUMNS:
        raise PersonaError(
            f"{path}: the header is {line[:200] or 'empty'}, but format dmsc_csv has {','.join(COLUMNS)}"
        )


def _parse(rows: pl.DataFrame) -> pl.DataFrame:
    """Typed columns beside the raw ones; what does not parse is null."""
    text = {name: pl.col(name).str.strip_chars() for name in COLUMNS}
    iso_date = text["Date"].str.contains(r"^\d{4}-\d{2}-\d{2}$")
    return rows.with_columns(
        username=text["Username"],
        item_id=text["Movie_Name_EN"],
        title=text["Movie_Name_CN"],
        day=pl.when(iso_date).then(text["Date"].str.to_date("%Y-%m-%d", strict=False)),
        rating=text["Star"].cast(pl.Float32, strict=False),
        text=text["Comment"],
        likes=text["Like"].cast(pl.Int32, strict=False),
    )


def _reason() -> pl.Expr:
    """Why a row cannot be used, or null. The first reason that applies is given."""
    return (
        pl.when(pl.col("username").str.to_lowercase().is_in(_NO_NAME))
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
    order = usable.sort("username", "item_id", "day", "text", "rating", "likes", *COLUMNS)
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


def _csv_line(values: tuple[str, ...]) -> str:
    """The record as a CSV line again."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().removesuffix("\n")
