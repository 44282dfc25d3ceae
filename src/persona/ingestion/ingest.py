"""Any raw format -> interactions, users, items, and what cannot be used with its reason."""

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
    as_rejects,
    commonest_titles,
    count_reasons,
    count_titles,
    identify,
    in_order,
    stored,
    sum_titles,
    temporary_folder,
    without_repeats,
)
from persona.tables import schemas
from persona.tables.parquet import count_rows, empty_table, read_table, table_writer, write_table

TOO_MANY = "too_many_rejects.parquet"


@dataclass(frozen=True)
class Ingested:
    """The tables of an ingestion."""

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    rejects: pl.DataFrame


def load(folder: Path) -> Ingested:
    """Read the tables of an ingestion that was written to `folder`."""
    return Ingested(
        read_table(folder / "interactions.parquet", schemas.INTERACTIONS),
        read_table(folder / "users.parquet", schemas.USERS),
        read_table(folder / "items.parquet", schemas.ITEMS),
        read_table(folder / "rejects.parquet", schemas.REJECTS),
    )


def ingest(path: Path, data_format: str, folder: Path, options: Options, max_reject_share: float) -> dict[str, Any]:
    """Read a raw data set, write `interactions`, `users`, `items` and `rejects`, and check that no row got lost.

    Returns:
        Counts: `rows`, `kept`, `rejected`, `reasons`, `users`, `items`.

    Raises:
        PersonaError: the file is missing or of another format, no row of it can be used, more than
            `max_reject_share` of the rows cannot, or the rows do not add up.
    """
    with temporary_folder(folder) as place:
        n_rows, unread = partition_rows(path, data_format, [place / "rows"], options)
        finished = build_tables(place / "rows", data_format, place / "interactions.parquet", place / "users.parquet")
        unused = pl.concat([unread, finished.repeats])
        counts = write_and_check(path, data_format, n_rows, finished.titles, unused, place, folder, max_reject_share)
    return counts


def partition_rows(path: Path, data_format: str, folders: list[Path], options: Options) -> tuple[int, pl.DataFrame]:
    """Read a raw data set and store the usable rows, an equal part of the users in each folder.

    Returns:
        The number of all rows, and those that cannot be used, as `schemas.REJECTS`.

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
    """What is left of stored rows besides interactions and users: `schemas.TITLES`, and repeats as rejects."""

    titles: pl.DataFrame
    repeats: pl.DataFrame


def build_tables(rows: Path, data_format: str, interactions: Path, users: Path) -> BuiltTables:
    """Give stored rows their ids, set repeats aside, bring them in order, and write interactions and users."""
    titles, repeated = empty_table(schemas.TITLES), [empty_table(schemas.REJECTS)]
    with (
        table_writer(interactions, schemas.INTERACTIONS) as interactions_writer,
        table_writer(users, schemas.USERS) as users_writer,
    ):
        for some in stored(rows):
            kept, repeats = without_repeats(identify(some), FORMATS[data_format].repeated)
            ordered = in_order(kept)
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
    made: Path,
    folder: Path,
    max_reject_share: float,
) -> dict[str, Any]:
    """Check the counts, write `items` and `rejects` to `folder`, and move `interactions` and `users` there from `made`.

    Returns, Raises: as `ingest`.
    """
    (folder / TOO_MANY).unlink(missing_ok=True)
    films = commonest_titles(titles)
    counts = {
        "rows": n_rows,
        "kept": count_rows(made / "interactions.parquet"),
        "rejected": rejects.height,
        "reasons": count_reasons(rejects),
        "users": count_rows(made / "users.parquet"),
        "items": films.height,
    }
    _check_counts(path, data_format, counts, rejects, max_reject_share, folder)
    write_table(films, folder / "items.parquet", schemas.ITEMS)
    write_table(rejects, folder / "rejects.parquet", schemas.REJECTS)
    for name in ("interactions.parquet", "users.parquet"):
        (made / name).replace(folder / name)
    return counts


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, the next of which is read while one is worked on."""
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
        raise PersonaError(f"{path}: {rows} rows in, but {kept} kept and {rejected} rejected")
    if kept and rejected <= limit * rows:
        return
    aside = folder / TOO_MANY
    write_table(rejects, aside, schemas.REJECTS)
    reasons = ", ".join(f"{count:,} times {reason}" for reason, count in list(counts["reasons"].items())[:3])
    if not kept:
        raise PersonaError(
            f"{path}: none of its {rows:,} rows can be used as {data_format}: {reasons or 'it is empty'}"
        )
    raise PersonaError(
        f"{path}: {rejected:,} of {rows:,} rows cannot be used, more than max_reject_share {limit}: {reasons}; "
        f"they are in {aside}"
    )


def summary(counts: dict[str, Any]) -> str:
    """A few lines that say what came in, what was kept and what was set aside why."""
    lines = [
        f"{counts['rows']:,} rows in = {counts['kept']:,} kept + {counts['rejected']:,} set aside",
        f"{counts['users']:,} users, {counts['items']:,} items",
    ]
    return "\n".join(lines + [f"  {count:,} {reason}" for reason, count in counts["reasons"].items()])
