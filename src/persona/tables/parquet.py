"""Read and write Parquet files: schemas are checked, and the same rows give the same bytes."""

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


def empty_table(table_schema: TableSchema) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema=table_schema.columns)


def write_table(table: pl.DataFrame, path: str | Path, table_schema: TableSchema) -> None:
    """Check, sort by key and write a table.

    Raises:
        PersonaError: a column is missing or of a wrong type, a value is null where it may not be, or the key
            is not unique.
    """
    write_tables([table], path, table_schema)


def write_tables(tables: Iterable[pl.DataFrame], path: str | Path, table_schema: TableSchema) -> None:
    """Check and write tables that follow each other in the order of the key into one file.

    Raises:
        PersonaError: as `write_table`, and if a table does not follow the one before.
    """
    with table_writer(path, table_schema) as writer:
        for table in tables:
            writer.write(table)


class TableWriter:
    """Writes tables that follow each other in the order of the key into one file.

    Where one ends and the next begins leaves no trace in the file. Compressing and writing goes on in a thread while
    the next table is made.
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
            PersonaError: as `write_table`, and if the table does not follow the one before.
        """
        names = self.table_schema.columns
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise PersonaError(f"{self.path}: cannot be written without the columns {', '.join(missing)}")
        table = table.select(pl.col(name).cast(dtype) for name, dtype in names.items())
        _check_values(table, self.path, self.table_schema)
        if not table.height:
            return
        table = table.sort(self.table_schema.key)
        keys = table.select(self.table_schema.key)
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
        size = self.table_schema.row_group_size
        if self.rest.height <= size or self.table_schema.key[0] != "user_id":
            return size
        users = self.rest["user_id"]
        return int(users.search_sorted(users[size - 1], side="right"))

    def _write_group(self, rows: pl.DataFrame) -> None:
        self.pending.append(self.thread.submit(self._write_rows, rows))

    def _write_rows(self, rows: pl.DataFrame) -> None:
        self.file.write_table(rows.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()), row_group_size=rows.height)


@contextmanager
def table_writer(path: str | Path, table_schema: TableSchema) -> Iterator[TableWriter]:
    """A writer whose file takes its place when the block ends without an error."""
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
    """Read a table, or some columns of it, or the rows of some users, and check that its schema is the expected one.

    Args:
        users: a range of `user_ranges`.

    Raises:
        PersonaError: the file is missing, damaged, or of another schema.
    """
    expected = {name: table_schema.columns[name] for name in columns or table_schema.columns}
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


def count_rows(path: str | Path) -> int:
    """Number of rows of a Parquet file."""
    return int(pq.read_metadata(path).num_rows)


def _check_values(table: pl.DataFrame, path: str | Path, table_schema: TableSchema) -> None:
    for name in table_schema.columns:
        if name not in table_schema.nullable and (count := table[name].null_count()):
            raise PersonaError(f"{path}: column {name} has {count} empty values, and none is allowed")
    duplicated = table.select(table_schema.key).is_duplicated()
    if duplicated.any():
        raise PersonaError(
            f"{path}: the key {table_schema.key} is not unique: {duplicated.sum()} rows share one, "
            f"the first is {table.select(table_schema.key).filter(duplicated).row(0)}"
        )
