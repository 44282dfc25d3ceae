"""Turns the rows of any format into tables, in memory that does not grow with the number of rows.

Rows are first stored on disk, partitioned by ranges of users. Each range is then read, sorted and written by itself.
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
STORED_COLUMNS = ROWS | {"user_hash": pl.UInt64}


class Store:
    """Rows on disk, partitioned by ranges of users. `read_stored` reads them back."""

    def __init__(self, folders: list[Path]) -> None:
        """Create the folders and open one file per range of users.

        Args:
            folders: they hold equal parts of the users, in the order of the users' hashes.
        """
        n = math.ceil(N_RANGES / len(folders))
        files = [folder / f"{i:02}.arrow" for folder in folders for i in range(n)]
        self.starts = np.array([2**64 * i // len(files) for i in range(1, len(files))], dtype=np.uint64)
        self.schema = pl.DataFrame(schema=STORED_COLUMNS).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        for folder in folders:
            folder.mkdir(parents=True)
        self.writers = [pa.ipc.new_stream(str(file), self.schema) for file in files]

    def add(self, rows: pl.DataFrame) -> None:
        """Store rows, with the columns of `ROWS`, each in the file of its user's range."""
        hashes = hash64_series(rows["user"])
        ranges = np.searchsorted(self.starts, hashes, side="right")
        rows = rows.with_columns(user_hash=pl.Series(hashes, dtype=pl.UInt64))
        parts = rows.with_columns(range=pl.Series(ranges)).partition_by("range", include_key=False, as_dict=True)
        for (n,), part in parts.items():
            for record_batch in part.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self.schema).to_batches():
                self.writers[n].write_batch(record_batch)

    def close(self) -> None:
        """Close the files; only then can they be read."""
        for writer in self.writers:
            writer.close()


def read_stored(folder: Path) -> Iterator[pl.DataFrame]:
    """Read the rows in one folder of a `Store`, one range of users at a time."""
    for file in sorted(folder.glob("*.arrow")):
        with pa.OSFile(str(file)) as raw, pa.ipc.open_stream(raw) as stream:
            rows = pl.DataFrame(pl.from_arrow(stream.read_all())).cast(STORED_COLUMNS)  # type: ignore[arg-type]
        yield rows


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Make a temporary folder in `folder` and delete it at the end; first delete what a killed run left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(".ingest-*"):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".ingest-", dir=folder) as temporary:
        yield Path(temporary)


def add_ids(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `user_id`, a hash of the user, and `interaction_id`, a hash of user and key."""
    users = rows["user_hash"].to_numpy()
    ids = mix64(users ^ mix64(hash64_series(rows["key"]), seed=0), seed=0) >> np.uint64(1)
    return rows.with_columns(
        user_id=hexadecimal(rows["user_hash"]), interaction_id=pl.Series(ids.astype(np.int64), dtype=pl.Int64)
    )


def hexadecimal(values: pl.Series) -> pl.Series:
    """Write unsigned integers as 16 hexadecimal digits, the form of `user_id`."""
    digits = values.to_numpy().astype(">u8").tobytes().hex()
    size = ID_DIGITS
    return pl.Series([digits[i : i + size] for i in range(0, len(digits), size)], dtype=pl.String)


def drop_repeats(rows: pl.DataFrame, reason: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep the earliest of the rows with the same `interaction_id`.

    Rows of one moment are sorted by their content, so the choice does not depend on the order of the file.

    Args:
        reason: the reason that the other rows are rejected with.

    Returns:
        The rows that are kept, and the others with the columns of `schemas.REJECTS`.
    """
    repeated = rows["interaction_id"].is_duplicated()
    ordered = rows.filter(repeated).sort("interaction_id", "moment", "row_order", "text", "rating", "likes", "raw")
    first = ordered["interaction_id"].is_first_distinct()
    kept = pl.concat([rows.filter(~repeated), ordered.filter(first)])
    return kept, as_rejects(ordered.filter(~first).with_columns(reason=pl.lit(reason)))


def as_rejects(rows: pl.DataFrame) -> pl.DataFrame:
    """Select the columns of `schemas.REJECTS` from rows with a `reason`."""
    return rows.select("file", "row", "reason", raw=pl.col("raw").str.strip_chars_end("\r\n"))


def sort_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort rows by user and time, and add `session` and `position`, both counted from 0 per user.

    Rows of one moment share a session.
    """
    rows = rows.sort("user_hash", "moment", "row_order", "interaction_id")
    user, moment = rows["user_hash"].to_numpy(), rows["moment"].to_numpy()
    new_user = np.append(True, user[1:] != user[:-1])[: len(user)]
    new_session = new_user | np.append(True, moment[1:] != moment[:-1])[: len(user)]
    sessions, indices = np.cumsum(new_session), np.arange(len(user))
    start = np.maximum.accumulate(np.where(new_user, indices, 0))
    return rows.with_columns(
        session=pl.Series(sessions - sessions[start], dtype=pl.Int32),
        position=pl.Series(indices - start, dtype=pl.Int32),
    )


def count_titles(rows: pl.DataFrame) -> pl.DataFrame:
    """Count how often each item occurs with each title and genres, with the columns of `schemas.TITLES`."""
    return rows.group_by("item_id", "title", "genres").agg(n=pl.len())


def sum_titles(counts: list[pl.DataFrame]) -> pl.DataFrame:
    """Add up the counts of several tables of `count_titles`."""
    return pl.concat(counts).group_by("item_id", "title", "genres").agg(pl.col("n").sum())


def most_common_titles(counts: pl.DataFrame) -> pl.DataFrame:
    """Give each item its most common title and genres; ties do not depend on the order of the rows."""
    ordered = counts.sort("item_id", "n", "title", "genres", descending=[False, True, False, False])
    return ordered.unique("item_id", keep="first", maintain_order=True)


def count_reasons(rejects: pl.DataFrame) -> dict[str, int]:
    """Count the rejects of each reason, the most common first."""
    return dict(rejects.group_by("reason").len().sort("len", "reason", descending=[True, False]).iter_rows())
