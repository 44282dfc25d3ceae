"""Reads a raw data set of any format into `interactions`, `users`, `items` and `rejects`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from persona.errors import PersonaError
from persona.ingestion.formats import FORMATS, check_format
from persona.ingestion.rows import Batch
from persona.ingestion.settings import Options
from persona.ingestion.tables import (
    Store,
    add_ids,
    as_rejects,
    count_reasons,
    count_titles,
    drop_repeats,
    most_common_titles,
    read_stored,
    sort_rows,
    sum_titles,
    temporary_folder,
)
from persona.tables import schemas
from persona.tables.parquet import count_rows, empty_table, read_table, table_writer, write_table

TOO_MANY_REJECTS = "too_many_rejects.parquet"


@dataclass(frozen=True)
class Ingested:
    """The four tables of an ingested data set, with the columns of `persona.tables.schemas`."""

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    rejects: pl.DataFrame


def load(folder: Path) -> Ingested:
    """Read the tables that `ingest` wrote to `folder`."""
    return Ingested(
        read_table(folder / "interactions.parquet", schemas.INTERACTIONS),
        read_table(folder / "users.parquet", schemas.USERS),
        read_table(folder / "items.parquet", schemas.ITEMS),
        read_table(folder / "rejects.parquet", schemas.REJECTS),
    )


def ingest(path: Path, data_format: str, folder: Path, options: Options, max_reject_share: float) -> dict[str, Any]:
    """Read a raw data set, write `interactions`, `users`, `items` and `rejects`, and check that no row is lost.

    Returns:
        Counts: `rows`, `kept`, `rejected`, `reasons` (rejects by reason), `users`, `items`.

    Raises:
        PersonaError: the file is missing or of another format, none of its rows can be used, more than
            `max_reject_share` of the rows are rejected, or the rows do not add up.
    """
    with temporary_folder(folder) as temporary:
        rows, interactions, users = (temporary / name for name in ("rows", "interactions.parquet", "users.parquet"))
        n_rows, unusable = partition_rows(path, data_format, [rows], options)
        built = build_tables(rows, data_format, interactions, users)
        rejects = pl.concat([unusable, built.repeats])
        return write_and_check(path, data_format, n_rows, built.titles, rejects, temporary, folder, max_reject_share)


def partition_rows(path: Path, data_format: str, folders: list[Path], options: Options) -> tuple[int, pl.DataFrame]:
    """Read a raw data set and store the usable rows, an equal part of the users in each folder.

    Returns:
        The number of all rows, and the rows that cannot be used, with the columns of `schemas.REJECTS`.

    Raises:
        PersonaError: the file is missing or of another format.
    """
    check_format(path, data_format)
    store = Store(folders)
    n_rows, rejected = 0, [empty_table(schemas.REJECTS)]
    for batch in _read_ahead(FORMATS[data_format].read(path, options)):
        usable = pl.col("reason").is_null()
        store.add(batch.rows.filter(usable))
        rejected += [as_rejects(batch.rows.filter(~usable)), batch.rejects]
        n_rows += batch.n_rows
    store.close()
    return n_rows, pl.concat(rejected)


@dataclass(frozen=True)
class BuiltTables:
    """Tables besides interactions and users: titles (`schemas.TITLES`) and repeated rows (`schemas.REJECTS`)."""

    titles: pl.DataFrame
    repeats: pl.DataFrame


def build_tables(rows: Path, data_format: str, interactions: Path, users: Path) -> BuiltTables:
    """Give stored rows their ids, reject repeats, sort the rest, and write interactions and users.

    Args:
        rows: a folder that `partition_rows` filled.
        interactions, users: the files to write.
    """
    titles, repeated = empty_table(schemas.TITLES), [empty_table(schemas.REJECTS)]
    with (
        table_writer(interactions, schemas.INTERACTIONS) as interactions_writer,
        table_writer(users, schemas.USERS) as users_writer,
    ):
        for users_rows in read_stored(rows):
            kept, repeats = drop_repeats(add_ids(users_rows), FORMATS[data_format].repeat_reason)
            ordered = sort_rows(kept)
            interactions_writer.write(ordered)
            users_writer.write(ordered.filter(pl.col("position") == 0))
            titles = sum_titles([titles, count_titles(ordered)])
            repeated.append(repeats)
    return BuiltTables(titles, pl.concat(repeated))


def write_and_check(
    path: Path,
    data_format: str,
    n_rows: int,
    titles: pl.DataFrame,
    rejects: pl.DataFrame,
    temporary: Path,
    folder: Path,
    max_reject_share: float,
) -> dict[str, Any]:
    """Check the counts, then write `items` and `rejects` to `folder` and move `interactions` and `users` there.

    Args:
        path: the raw data set, for messages.
        n_rows: the number of rows that were read, from `partition_rows`.
        titles: from `build_tables`.
        rejects: all rejected rows.
        temporary: the folder with `interactions.parquet` and `users.parquet`.

    Returns:
        The counts that `ingest` returns.

    Raises:
        PersonaError: no row can be used, too many are rejected, or the rows do not add up.
    """
    (folder / TOO_MANY_REJECTS).unlink(missing_ok=True)
    items = most_common_titles(titles)
    counts = {
        "rows": n_rows,
        "kept": count_rows(temporary / "interactions.parquet"),
        "rejected": rejects.height,
        "reasons": count_reasons(rejects),
        "users": count_rows(temporary / "users.parquet"),
        "items": items.height,
    }
    _check_counts(path, data_format, counts, rejects, max_reject_share, folder)
    write_table(items, folder / "items.parquet", schemas.ITEMS)
    write_table(rejects, folder / "rejects.parquet", schemas.REJECTS)
    for name in ("interactions.parquet", "users.parquet"):
        (temporary / name).replace(folder / name)
    return counts


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the same batches, reading the next one in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def _check_counts(
    path: Path, data_format: str, counts: dict[str, Any], rejects: pl.DataFrame, limit: float, folder: Path
) -> None:
    rows, kept, rejected = (counts[name] for name in ("rows", "kept", "rejected"))
    if rows != kept + rejected:
        raise PersonaError(
            f"{path}: {rows} rows read, but {kept} kept and {rejected} rejected, which is a bug; please report it"
        )
    if kept and rejected <= limit * rows:
        return
    rejects_file = folder / TOO_MANY_REJECTS
    write_table(rejects, rejects_file, schemas.REJECTS)
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in list(counts["reasons"].items())[:3])
    if not kept:
        raise PersonaError(
            f"{path}: none of its {rows:,} rows can be used as {data_format}: {reasons or 'the file is empty'}"
        )
    raise PersonaError(
        f"{path}: {rejected:,} of {rows:,} rows were rejected, more than max_reject_share {limit} allows: {reasons}; "
        f"all are in {rejects_file}"
    )


def summary(counts: dict[str, Any]) -> str:
    """Describe the counts of `ingest` in a few lines."""
    lines = [
        f"{counts['rows']:,} rows read = {counts['kept']:,} kept + {counts['rejected']:,} rejected",
        f"{counts['users']:,} users, {counts['items']:,} items",
    ]
    return "\n".join(lines + [f"  {count:,} {reason}" for reason, count in counts["reasons"].items()])
