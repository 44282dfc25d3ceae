"""Reads and writes Parquet files. Schemas are checked, and the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from persona.errors import PersonaError
from persona.files import atomic_path
from persona.tables.schemas import TableSchema

PART_BYTES = 1 << 27  # of a part of a table, before compression
ALL_USERS = ("", "g")  # ids are hexadecimal digits, which sort before `g`


def empty_table(table_schema: TableSchema) -> pl.DataFrame:
    """Make a table without rows."""
    return pl.DataFrame(schema=table_schema.columns)


def write_table(table: pl.DataFrame, path: str | Path, table_schema: TableSchema) -> None:
    """Check, sort by key and write a table.

    Raises:
        PersonaError: a column is missing or of a wrong type, a value is null where it may not be, or the key
            is not unique.
    """
    write_tables([table], path, table_schema)


def write_tables(tables: Iterable[pl.DataFrame], path: str | Path, table_schema: TableSchema) -> None:
    """Check and write tables into one file; each must follow the one before in the order of the key.

    Raises:
        PersonaError: as `write_table`, or a table does not follow the one before.
    """
    with table_writer(path, table_schema) as writer:
        for table in tables:
            writer.write(table)


class TableWriter:
    """Writes tables that follow each other in the order of the key into one file.

    The bytes of the file do not depend on how the rows are divided into tables. A thread compresses and writes, so that
    the caller can make the next table meanwhile. `table_writer` makes a writer.
    """

    def __init__(
        self, file: pq.ParquetWriter, thread: ThreadPoolExecutor, path: str | Path, table_schema: TableSchema
    ) -> None:
        self.file, self.thread, self.path, self.table_schema = file, thread, path, table_schema
        self.pending: list[Future[None]] = []
        self.rest = pl.DataFrame(schema=table_schema.columns)
        self.last: tuple[Any, ...] | None = None

    def write(self, table: pl.DataFrame) -> None:
        """Check, sort by key and add a table.

        Raises:
            PersonaError: as `write_table`, or the table does not follow the one before.
        """
        names = self.table_schema.columns
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise PersonaError(
                f"{self.path}: the table to write lacks the columns {', '.join(missing)}; rerun the step that makes it"
            )
        table = table.select(pl.col(name).cast(dtype) for name, dtype in names.items())
        _check_values(table, self.path, self.table_schema)
        if not table.height:
            return
        table = table.sort(self.table_schema.key)
        keys = table.select(self.table_schema.key)
        if self.last is not None and keys.row(0) <= self.last:
            raise PersonaError(
                f"{self.path}: the key {keys.row(0)} must follow {self.last}; write the tables in the order of the key"
            )
        self.last = keys.row(-1)
        self._wait()
        self.rest = pl.concat([self.rest, table]) if self.rest.height else table
        while (size := self._group_size()) < self.rest.height:
            self._write_group(self.rest.head(size))
            self.rest = self.rest.slice(size)

    def finish(self) -> None:
        """Write the remaining rows."""
        if self.rest.height:
            self._write_group(self.rest)
        self._wait()

    def _wait(self) -> None:
        """Wait until the rows of the last table are written, so that at most one table is in memory for it."""
        for future in self.pending:
            future.result()
        self.pending = []

    def _group_size(self) -> int:
        """The number of rows of the next row group.

        In a table with users it ends where a user ends, unless that user has very many rows.
        """
        size = self.table_schema.row_group_size
        if self.rest.height <= size or self.table_schema.key[0] != "user_id":
            return size
        users = self.rest["user_id"]
        return min(2 * size, int(users.search_sorted(users[size - 1], side="right")))

    def _write_group(self, rows: pl.DataFrame) -> None:
        self.pending.append(self.thread.submit(self._write_rows, rows))

    def _write_rows(self, rows: pl.DataFrame) -> None:
        self.file.write_table(rows.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()), row_group_size=rows.height)


@contextmanager
def table_writer(path: str | Path, table_schema: TableSchema) -> Iterator[TableWriter]:
    """Open a `TableWriter`; the file appears at `path` when the block ends without an error."""
    arrow_schema = pl.DataFrame(schema=table_schema.columns).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            arrow_schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=table_schema.repetitive,
            version="2.6",
            store_schema=False,
        ) as file,
        ThreadPoolExecutor(1) as thread,
    ):
        writer = TableWriter(file, thread, path, table_schema)
        yield writer
        writer.finish()


def read_table(
    path: str | Path,
    table_schema: TableSchema,
    columns: list[str] | None = None,
    users: tuple[str, str] | None = None,
) -> pl.DataFrame:
    """Read a table and check its schema.

    Args:
        columns: the columns to read; by default all.
        users: the range of users to read, from `user_ranges`; by default all.

    Raises:
        PersonaError: the file is missing, damaged, or has another schema.
    """
    expected = {name: table_schema.columns[name] for name in columns or table_schema.columns}
    if not Path(path).is_file():
        raise PersonaError(f"{path}: no such file; first run the step that makes it")
    try:
        missing = sorted(set(expected) - set(pq.read_schema(path).names))
        if missing:
            raise PersonaError(
                f"{path}: it lacks the column {missing[0]}; an earlier version of this program made it, so run "
                "snakemake again"
            )
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
    """Read the rows of a range of users from the row groups that hold some of them.

    pyarrow is used because polars maps the whole file into the address space each time.
    """
    with pq.ParquetFile(path) as file:
        table = file.read_row_groups(_groups_of(file, users), columns=list(dict.fromkeys([*columns, "user_id"])))
    return _of_users(table, users).select(columns)


def _groups_of(file: pq.ParquetFile, users: tuple[str, str]) -> list[int]:
    """The row groups that hold some of a range of users."""
    low, high = users
    column = file.schema.names.index("user_id")
    bounds = [file.metadata.row_group(n).column(column).statistics for n in range(file.num_row_groups)]
    return [n for n, bound in enumerate(bounds) if bound.max >= low and bound.min < high]


def _of_users(table: pa.Table, users: tuple[str, str]) -> pl.DataFrame:
    low, high = users
    return pl.DataFrame(pl.from_arrow(table)).filter(pl.col("user_id") >= low, pl.col("user_id") < high)


def read_parts(
    path: str | Path,
    table_schema: TableSchema,
    n_rows: int,
    users: tuple[str, str] = ALL_USERS,
    columns: list[str] | None = None,
) -> Iterator[pl.DataFrame]:
    """Read a table of users in parts of whole row groups, in order.

    A part has at most about `n_rows` rows and `PART_BYTES` bytes, or one row group. There is one part at least.

    Args:
        users, columns: as for `read_table`.

    Raises:
        PersonaError: as `read_table`.
    """
    names = columns or list(table_schema.columns)
    read_table(path, table_schema, names, users=("", ""))  # checks the schema
    with pq.ParquetFile(path) as file:
        parts: list[list[int]] = [[]]
        rows = size = 0
        for n in _groups_of(file, users):
            group = file.metadata.row_group(n)
            if rows + group.num_rows > n_rows or size + group.total_byte_size > PART_BYTES:
                parts.append([])
                rows = size = 0
            parts[-1].append(n)
            rows, size = rows + group.num_rows, size + group.total_byte_size
        for groups in [part for part in parts if part] or [[]]:
            table = file.read_row_groups(groups, columns=list(dict.fromkeys([*names, "user_id"])))
            yield _of_users(table, users).select(names)


def read_rows(
    path: str | Path, table_schema: TableSchema, ids: pl.Series, users: tuple[str, str] | None = None
) -> pl.DataFrame:
    """Read the rows with these `interaction_id`s, one row group at a time.

    Args:
        users: the range of users that they are of, if it is known; other row groups are not read.

    Raises:
        PersonaError: the file is missing.
    """
    if not Path(path).is_file():
        raise PersonaError(f"{path}: no such file; first run the step that makes it")
    wanted = ids.unique().to_frame("interaction_id")
    names = list(table_schema.columns)
    with pq.ParquetFile(path) as file:
        numbers = range(file.num_row_groups) if users is None else _groups_of(file, users)
        groups = (pl.DataFrame(pl.from_arrow(file.read_row_group(n, names))) for n in numbers)
        found = [group.join(wanted, on="interaction_id", how="semi") for group in groups]
    return pl.concat(found) if found else empty_table(table_schema)


def rename_damaged(results: Path) -> list[Path]:
    """Add `.damaged` to the names of incomplete Parquet files below a folder, so that they are made again.

    This workflow never leaves such a file, but a failing disk or machine may.

    Returns:
        The paths that were renamed.
    """
    damaged = []
    for path in sorted(results.rglob("*.parquet")):
        with suppress(FileNotFoundError):  # another run may delete files meanwhile
            if not _is_whole(path):
                path.rename(path.with_name(f"{path.name}.damaged"))
                damaged.append(path)
    return damaged


def _is_whole(path: Path) -> bool:
    """Whether a file begins and ends with the magic bytes of Parquet."""
    with path.open("rb") as file:
        begin = file.read(4)
        file.seek(max(4, path.stat().st_size - 4))
        return begin == file.read(4) == b"PAR1"


def count_rows(path: str | Path) -> int:
    """The number of rows of a Parquet file, from its metadata."""
    return int(pq.read_metadata(path).num_rows)


def _check_values(table: pl.DataFrame, path: str | Path, table_schema: TableSchema) -> None:
    for name in table_schema.columns:
        if name not in table_schema.nullable and (count := table[name].null_count()):
            raise PersonaError(f"{path}: column {name} has {count} null values, but may have none")
    duplicated = table.select(table_schema.key).is_duplicated()
    if duplicated.any():
        raise PersonaError(
            f"{path}: the key {table_schema.key} must be unique, but {duplicated.sum()} rows share one; "
            f"the first is {table.select(table_schema.key).filter(duplicated).row(0)}"
        )
