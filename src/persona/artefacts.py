"""The Parquet files of the workflow: their schemas, and reading and writing them.

Every file is checked on write and on read, sorted by its key, and has the same bytes whenever it is
built from the same inputs, in one piece or in many. It is written under a temporary name and moved in
place, so a file that is there is whole.

A user's id is a hash, so users can be taken in ranges of their ids: what is too large for the memory is
read and written range by range. Row groups end where a user ends, so that a range reads little else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from persona.errors import PersonaError

# Rows, and those that the last user of a group has more.
ROW_GROUP_SIZE, ROW_GROUP_SIZE_OF_LONG_ROWS = 65_536, 4_096
ID_DIGITS = 16


@dataclass(frozen=True)
class Artefact:
    """What a Parquet file holds: columns in order, the key it is sorted by, columns that may be null."""

    columns: dict[str, Any]
    key: tuple[str, ...]
    nullable: frozenset[str] = frozenset()
    row_group_size: int = ROW_GROUP_SIZE

    @property
    def repetitive(self) -> list[str]:
        """Columns whose values are worth a dictionary."""
        names = [name for name, dtype in self.columns.items() if dtype == pl.String]
        return [name for name in names if name not in ("prompt", "completion", "text", "raw")]


TURN = pl.Struct({"speaker": pl.String, "text": pl.String})
FIELD = pl.Struct({"field": pl.String, "value": pl.String})
_TARGET = {"interaction_id": pl.Int64, "user_id": pl.String, "item_id": pl.String}

INTERACTIONS = Artefact(
    {
        **_TARGET,
        "day": pl.Date,
        # Days, conversations or whatever else tells earlier from later, numbered within the user: what lies in
        # one session may not be told apart in time.
        "session": pl.Int32,
        "position": pl.Int32,
        "rating": pl.Float32,
        "text": pl.String,
        "likes": pl.Int32,
        "context": pl.List(TURN),
    },
    key=("user_id", "position"),
    nullable=frozenset({"day", "rating", "likes"}),
)
USERS = Artefact({"user_id": pl.String, "profile": pl.List(FIELD)}, key=("user_id",))
ITEMS = Artefact({"item_id": pl.String, "title": pl.String, "genres": pl.List(pl.String)}, key=("item_id",))
# How often an item has which title and genres.
TITLES = Artefact({**ITEMS.columns, "n": pl.UInt32}, key=("item_id", "title", "genres"))
REJECTS = Artefact({"file": pl.String, "row": pl.Int64, "reason": pl.String, "raw": pl.String}, key=("file", "row"))
SPLIT = Artefact({"user_id": pl.String, "split": pl.String}, key=("user_id",))
SAMPLES = Artefact(_TARGET, key=("user_id", "interaction_id"))
PROMPTS = Artefact(
    {
        **_TARGET,
        "prompt": pl.String,
        "completion": pl.String,
        "rating": pl.Float32,
        "history_ids": pl.List(pl.Int64),
        # Where the section of the history (of the context) starts in `prompt`, in characters, each of its entries,
        # and what follows: what a tokenizer needs to drop whole entries.
        "history_offsets": pl.List(pl.Int32),
        "context_offsets": pl.List(pl.Int32),
        "n_context": pl.Int32,
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"rating"}),
    row_group_size=ROW_GROUP_SIZE_OF_LONG_ROWS,
)
TOKENS = Artefact(
    {
        "interaction_id": pl.Int64,
        "user_id": pl.String,
        "input_ids": pl.List(pl.Int32),
        "prompt_length": pl.Int32,
        "n_history_dropped": pl.Int32,
        "n_context_dropped": pl.Int32,
    },
    key=("user_id", "interaction_id"),
    row_group_size=ROW_GROUP_SIZE_OF_LONG_ROWS,
)
TARGETS = Artefact(
    {
        **_TARGET,
        "cohort": pl.String,
        "rating": pl.Float32,
        "text": pl.String,
        # The text says how many stars it gives.
        "names_star": pl.Boolean,
        "n_history": pl.Int32,
        # Mean rating of the history.
        "history_mean": pl.Float64,
        # Test targets of one block stand in for each other's users.
        "block": pl.Int32,
        # Another user's review of the film, with the same star if there is one; another review of the same user.
        "floor_text": pl.String,
        "ceiling_text": pl.String,
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"rating", "history_mean", "block", "floor_text", "ceiling_text"}),
)
SCORES = Artefact(
    {
        **_TARGET,
        "cohort": pl.String,
        "n_characters": pl.Int32,
        "n_tokens": pl.Int32,
        # In nats, summed over the completion: under the target's own prompt,
        "nll": pl.Float64,
        # under the prompts of other users' targets, and under the prompt that tells nothing of a user.
        "impostor_ids": pl.List(pl.Int64),
        "nll_impostors": pl.List(pl.Float64),
        "nll_empty": pl.Float64,
        # Probabilities of 1 to 5, asked for before the text; what they leave of 1 leaked to other answers.
        "stars": pl.List(pl.Float64),
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"impostor_ids", "nll_impostors", "nll_empty", "stars"}),
)
GENERATIONS = Artefact(
    {**_TARGET, "method": pl.String, "draw": pl.Int32, "text": pl.String, "stop_reason": pl.String},
    key=("user_id", "interaction_id", "method", "draw"),
    nullable=frozenset({"stop_reason"}),
)
RATINGS = Artefact({**_TARGET, "method": pl.String, "rating": pl.Float64}, key=("user_id", "interaction_id", "method"))
# How alike a review and each candidate's earlier reviews are, negated and named like likelihoods, to be ranked alike.
AUTHORS = Artefact(
    {
        "interaction_id": pl.Int64,
        "user_id": pl.String,
        "impostor_ids": pl.List(pl.Int64),
        "nll": pl.Float64,
        "nll_impostors": pl.List(pl.Float64),
    },
    key=("user_id", "interaction_id"),
)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the disk hold all files of a folder, whatever happens to the machine."""
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def empty(artefact: Artefact) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema=artefact.columns)


def write_table(table: pl.DataFrame, path: str | Path, artefact: Artefact) -> None:
    """Check, sort by key and write a table.

    Raises:
        PersonaError: a column is missing or of a wrong type, a value is null where it may not be, or the key
            is not unique.
    """
    write_tables([table], path, artefact)


def write_tables(tables: Iterable[pl.DataFrame], path: str | Path, artefact: Artefact) -> None:
    """Check and write tables that follow each other in the order of the key into one file.

    Raises:
        PersonaError: as `write_table`, and if a table does not follow the one before.
    """
    with table_writer(path, artefact) as writer:
        for table in tables:
            writer.write(table)


class TableWriter:
    """Writes tables that follow each other in the order of the key into one file.

    Where one ends and the next begins leaves no trace in the file. Compressing and writing goes on in a thread while
    the next table is made.
    """

    def __init__(
        self, file: pq.ParquetWriter, thread: ThreadPoolExecutor, path: str | Path, artefact: Artefact
    ) -> None:
        self.file, self.thread, self.path, self.artefact = file, thread, path, artefact
        self.pending: list[Future[None]] = []
        self.rest = pl.DataFrame(schema=artefact.columns)
        self.last: tuple[Any, ...] | None = None

    def write(self, table: pl.DataFrame) -> None:
        """Check, sort by key and add a table.

        Raises:
            PersonaError: as `write_table`, and if the table does not follow the one before.
        """
        names = self.artefact.columns
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise PersonaError(f"{self.path}: cannot be written without the columns {', '.join(missing)}")
        table = table.select(pl.col(name).cast(dtype) for name, dtype in names.items())
        _check_values(table, self.path, self.artefact)
        if not table.height:
            return
        table = table.sort(self.artefact.key)
        keys = table.select(self.artefact.key)
        if self.last is not None and keys.row(0) <= self.last:
            raise PersonaError(f"{self.path}: the key {keys.row(0)} comes after {self.last}, which is not before it")
        self.last = keys.row(-1)
        self._wait()
        self.rest = pl.concat([self.rest, table]) if self.rest.height else table
        while (size := self._group_size()) < self.rest.height:
            self._write_group(self.rest.head(size))
            self.rest = self.rest.slice(size)

    def finish(self) -> None:
        """Write what is left."""
        if self.rest.height:
            self._write_group(self.rest)
        self._wait()

    def _wait(self) -> None:
        """Until the rows of the table before are written, so that no more than one table's wait."""
        for write in self.pending:
            write.result()
        self.pending = []

    def _group_size(self) -> int:
        """Rows of the next row group: it ends with a user, where the table has users."""
        size = self.artefact.row_group_size
        if self.rest.height <= size or self.artefact.key[0] != "user_id":
            return size
        users = self.rest["user_id"]
        return int(users.search_sorted(users[size - 1], side="right"))

    def _write_group(self, rows: pl.DataFrame) -> None:
        self.pending.append(self.thread.submit(self._write_rows, rows))

    def _write_rows(self, rows: pl.DataFrame) -> None:
        self.file.write_table(rows.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()), row_group_size=rows.height)


@contextmanager
def table_writer(path: str | Path, artefact: Artefact) -> Iterator[TableWriter]:
    """A writer whose file takes its place when the block ends without an error."""
    schema = pl.DataFrame(schema=artefact.columns).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=artefact.repetitive,
            version="2.6",
            store_schema=False,
        ) as file,
        ThreadPoolExecutor(1) as thread,
    ):
        writer = TableWriter(file, thread, path, artefact)
        yield writer
        writer.finish()


def read_table(
    path: str | Path,
    artefact: Artefact,
    columns: list[str] | None = None,
    users: tuple[str, str] | None = None,
) -> pl.DataFrame:
    """Read a table, or some columns of it, or the rows of some users, and check that its schema is the expected one.

    Args:
        users: a range of `user_ranges`.

    Raises:
        PersonaError: the file is missing, damaged, or of another schema.
    """
    expected = {name: artefact.columns[name] for name in columns or artefact.columns}
    if not Path(path).is_file():
        raise PersonaError(f"{path}: no such file; run the step that makes it first")
    try:
        if users is None:
            table = pl.read_parquet(path, columns=list(expected), glob=False)
        else:
            table = _read_users(path, list(expected), users)
    except (pl.exceptions.PolarsError, pa.ArrowInvalid, OSError, KeyError) as error:
        raise PersonaError(f"{path}: not a readable Parquet file of this workflow; delete it and rerun") from error
    for name, dtype in expected.items():
        if table.schema[name] != dtype:
            raise PersonaError(
                f"{path}: column {name} is {table.schema[name]}, expected {dtype}; delete the file and rerun"
            )
    return table


def _read_users(path: str | Path, columns: list[str], users: tuple[str, str]) -> pl.DataFrame:
    """The rows of a range of users, from the row groups that hold some of them.

    By pyarrow, which reads the file instead of mapping it each time into the address space.
    """
    low, high = users
    with pq.ParquetFile(path) as file:
        place = file.schema.names.index("user_id")
        groups = []
        for n in range(file.num_row_groups):
            bounds = file.metadata.row_group(n).column(place).statistics
            if bounds.max >= low and bounds.min < high:
                groups.append(n)
        table = file.read_row_groups(groups, columns=list(dict.fromkeys([*columns, "user_id"])))
    rows = pl.DataFrame(pl.from_arrow(table))
    return rows.filter(pl.col("user_id") >= low, pl.col("user_id") < high).select(columns)


def set_aside_damaged(results: Path) -> list[Path]:
    """Rename the tables below a folder that do not end as a Parquet file ends, so that they are made again.

    This workflow leaves no such file, but a disk or a machine that fails may.
    """
    cut_off = []
    for path in sorted(results.rglob("*.parquet")):
        with suppress(FileNotFoundError):  # a run beside this one takes away what it no longer needs
            if not _is_whole(path):
                path.rename(path.with_name(f"{path.name}.damaged"))
                cut_off.append(path)
    return cut_off


def _is_whole(path: Path) -> bool:
    """Whether a file begins and ends with Parquet's mark."""
    with path.open("rb") as file:
        begin = file.read(4)
        file.seek(max(4, path.stat().st_size - 4))
        return begin == file.read(4) == b"PAR1"


def human_size(size: float) -> str:
    """Bytes in the decimal units in which disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def count_rows(path: str | Path) -> int:
    """Number of rows of a Parquet file."""
    return int(pq.read_metadata(path).num_rows)


def bucket(name: str) -> tuple[int, int]:
    """A part of the users by its name, `3-of-8`."""
    k, m = name.split("-of-")
    return int(k), int(m)


def read_buckets(paths: list[Path], artefact: Artefact) -> Iterator[pl.DataFrame]:
    """The rows of all parts of the users in their order, some users after the other.

    Args:
        paths: a table a part, each named as its part, `3-of-8.parquet`.
    """
    for path in sorted(paths, key=lambda path: bucket(path.stem)):
        n = math.ceil(count_rows(path) / (4 * artefact.row_group_size))
        for users in user_ranges(max(1, n), bucket(path.stem)):
            yield read_table(path, artefact, users=users)


def user_ranges(n: int, within: tuple[int, int] = (1, 1)) -> list[tuple[str, str]]:
    """Cut the ids of users into `n` ranges [low, high), in order; together they are the k-th of m equal parts of all.

    Args:
        within: (k, m), by default the whole.
    """
    k, m = within
    space = 16**ID_DIGITS
    edges = [space * ((k - 1) * n + i) // (m * n) for i in range(n + 1)]
    # Hexadecimal digits sort before `g`.
    names = [f"{edge:0{ID_DIGITS}x}" if edge < space else "g" for edge in edges]
    return list(pairwise(names))


def _check_values(table: pl.DataFrame, path: str | Path, artefact: Artefact) -> None:
    for name in artefact.columns:
        if name not in artefact.nullable and (count := table[name].null_count()):
            raise PersonaError(f"{path}: column {name} has {count} empty values, and none is allowed")
    duplicated = table.select(artefact.key).is_duplicated()
    if duplicated.any():
        raise PersonaError(
            f"{path}: the key {artefact.key} is not unique: {duplicated.sum()} rows share one, "
            f"the first is {table.select(artefact.key).filter(duplicated).row(0)}"
        )


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: object, path: str | Path) -> None:
    """Write JSON with sorted keys in one step."""
    write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n", path)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and bytes of a folder's files, in hexadecimal."""
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            digest.update(f"{file.relative_to(path)}\0{file_digest(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
