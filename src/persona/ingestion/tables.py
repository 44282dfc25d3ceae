"""Rows of any format -> interactions, users, items and rejects, in memory that does not grow with their number.

Rows are put aside on the disk by ranges of users. A range is then brought in order and written, one after the other.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc

from persona.ingestion.rows import ROWS
from persona.seeded_hash import hash64_series, mix64
from persona.tables.user_ranges import ID_DIGITS

N_RANGES = 16
STORED = ROWS | {"user_hash": pl.UInt64}


class Store:
    """Rows on the disk, by range of users."""

    def __init__(self, folders: list[Path]) -> None:
        """Each folder is for an equal part of the users, cut into ranges; together they are all users, in order."""
        n = math.ceil(N_RANGES / len(folders))
        files = [folder / f"{i:02}.arrow" for folder in folders for i in range(n)]
        self.starts = np.array([2**64 * i // len(files) for i in range(1, len(files))], dtype=np.uint64)
        self.schema = pl.DataFrame(schema=STORED).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        for folder in folders:
            folder.mkdir(parents=True)
        self.writers = [pa.ipc.new_stream(str(file), self.schema) for file in files]

    def add(self, rows: pl.DataFrame) -> None:
        """Put rows aside, each with its user's hash."""
        hashes = hash64_series(rows["user"])
        ranges = np.searchsorted(self.starts, hashes, side="right")
        rows = rows.with_columns(user_hash=pl.Series(hashes, dtype=pl.UInt64))
        parts = rows.with_columns(range=pl.Series(ranges)).partition_by("range", include_key=False, as_dict=True)
        for (n,), part in parts.items():
            for piece in part.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self.schema).to_batches():
                self.writers[n].write_batch(piece)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


def stored(folder: Path) -> Iterator[pl.DataFrame]:
    """The rows of a folder of a store, one range of users after the other."""
    for file in sorted(folder.glob("*.arrow")):
        with pa.OSFile(str(file)) as raw, pa.ipc.open_stream(raw) as stream:
            rows = pl.DataFrame(pl.from_arrow(stream.read_all())).cast(STORED)  # type: ignore[arg-type]
        yield rows


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder in `folder`, gone at the end; what a killed run left is taken away first."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(".ingest-*"):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".ingest-", dir=folder) as place:
        yield Path(place)


def identify(rows: pl.DataFrame) -> pl.DataFrame:
    """Add ids from the data: `user_id` is a hash of the user, `interaction_id` one of user and key."""
    users = rows["user_hash"].to_numpy()
    ids = mix64(users ^ mix64(hash64_series(rows["key"]), seed=0), seed=0) >> np.uint64(1)
    return rows.with_columns(
        user_id=_hexadecimal(rows["user_hash"]), interaction_id=pl.Series(ids.astype(np.int64), dtype=pl.Int64)
    )


def _hexadecimal(values: pl.Series) -> pl.Series:
    """Unsigned integers as 16 hexadecimal digits, the form of `USER_HASH`."""
    digits = values.to_numpy().astype(">u8").tobytes().hex()
    size = ID_DIGITS
    return pl.Series([digits[i : i + size] for i in range(0, len(digits), size)], dtype=pl.String)


def without_repeats(rows: pl.DataFrame, reason: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Of rows of one id keep the earliest; return it and the others as rejects.

    Rows of one moment are ordered by what they say, never by where they stand in the file.
    """
    repeated = rows["interaction_id"].is_duplicated()
    ordered = rows.filter(repeated).sort("interaction_id", "moment", "place", "text", "rating", "likes", "raw")
    first = ordered["interaction_id"].is_first_distinct()
    kept = pl.concat([rows.filter(~repeated), ordered.filter(first)])
    return kept, as_rejects(ordered.filter(~first).with_columns(reason=pl.lit(reason)))


def as_rejects(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("file", "row", "reason", raw=pl.col("raw").str.strip_chars_end("\r\n"))


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows by user and time, with `session` and `position`, both counted from 0 within the user."""
    rows = rows.sort("user_hash", "moment", "place", "interaction_id")
    user, moment = rows["user_hash"].to_numpy(), rows["moment"].to_numpy()
    new_user = np.append(True, user[1:] != user[:-1])[: len(user)]
    new_session = new_user | np.append(True, moment[1:] != moment[:-1])[: len(user)]
    sessions, places = np.cumsum(new_session), np.arange(len(user))
    start = np.maximum.accumulate(np.where(new_user, places, 0))
    return rows.with_columns(
        session=pl.Series(sessions - sessions[start], dtype=pl.Int32),
        position=pl.Series(places - start, dtype=pl.Int32),
    )


def count_titles(rows: pl.DataFrame) -> pl.DataFrame:
    """How often each item has which title and genres."""
    return rows.group_by("item_id", "title", "genres").agg(n=pl.len())


def sum_titles(counts: list[pl.DataFrame]) -> pl.DataFrame:
    """The counts of several tables as one."""
    return pl.concat(counts).group_by("item_id", "title", "genres").agg(pl.col("n").sum())


def commonest_titles(counts: pl.DataFrame) -> pl.DataFrame:
    """The items, each with its commonest title and genres, whatever the order of the rows was."""
    ordered = counts.sort("item_id", "n", "title", "genres", descending=[False, True, False, False])
    return ordered.unique("item_id", keep="first", maintain_order=True)


def count_reasons(rejects: pl.DataFrame) -> dict[str, int]:
    """How many rows each reason applies to, the commonest first."""
    return dict(rejects.group_by("reason").len().sort("len", "reason", descending=[True, False]).iter_rows())
