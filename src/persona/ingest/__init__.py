"""Any raw format -> interactions, users, items, and what cannot be used with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from persona import artefacts
from persona.errors import PersonaError
from persona.ingest import cornell, dmsc, dmsc_csv, dmsc_v2, jsonl, twin_json
from persona.ingest.rows import Batch, Options
from persona.ingest.sources import open_raw
from persona.ingest.tables import (
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

HEAD = 65_536
REPEATED = "the same record again"
TOO_MANY = "too_many_rejects.parquet"
FILES = (cornell.LINES, cornell.CONVERSATIONS, cornell.CHARACTERS, cornell.TITLES)


@dataclass(frozen=True)
class Format:
    """A raw format.

    Attributes:
        recognises: whether a file that begins so is of the format.
        looks: what such a file is, for people.
        files: their names where a data set is a folder; the first is looked at.
        repeated: why a second row of a user with the same key is set aside.
    """

    read: Callable[[Path, Options], Iterator[Batch]]
    recognises: Callable[[bytes], bool]
    looks: str
    files: tuple[str, ...] = ()
    repeated: str = REPEATED


FORMATS: dict[str, Format] = {
    "dmsc_csv": Format(
        dmsc_csv.read,
        dmsc_csv.recognises,
        f"a CSV with the columns {','.join(dmsc_csv.FORM.columns)}",
        repeated=dmsc.SECOND_REVIEW,
    ),
    "dmsc_v2": Format(
        dmsc_v2.read,
        dmsc_v2.recognises,
        f"a folder with {dmsc_v2.RATINGS} ({','.join(dmsc_v2.FORM.columns)}) and {dmsc_v2.MOVIES}",
        files=(dmsc_v2.RATINGS, dmsc_v2.MOVIES),
        repeated=dmsc.SECOND_REVIEW,
    ),
    "twin_json": Format(
        twin_json.read, twin_json.recognises, "JSON of users with task.task_behavior_collections[].data"
    ),
    "cornell": Format(
        cornell.read,
        cornell.recognises,
        f"a folder with {', '.join(FILES)}, fields separated by '{cornell.SEPARATOR}'",
        files=FILES,
    ),
    "jsonl": Format(jsonl.read, jsonl.recognises, "a JSON object with user, item and text on each line"),
}


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
        artefacts.read_table(folder / "interactions.parquet", artefacts.INTERACTIONS),
        artefacts.read_table(folder / "users.parquet", artefacts.USERS),
        artefacts.read_table(folder / "items.parquet", artefacts.ITEMS),
        artefacts.read_table(folder / "rejects.parquet", artefacts.REJECTS),
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
        n_rows, unread = put_aside(path, data_format, [place / "rows"], options)
        finished = finish(place / "rows", data_format, place / "interactions.parquet", place / "users.parquet")
        unused = pl.concat([unread, finished.repeats])
        counts = conclude(path, data_format, n_rows, finished.titles, unused, place, folder, max_reject_share)
    return counts


def put_aside(path: Path, data_format: str, folders: list[Path], options: Options) -> tuple[int, pl.DataFrame]:
    """Read a raw data set and store the usable rows, an equal part of the users in each folder.

    Returns:
        The number of all rows, and those that cannot be used, as `artefacts.REJECTS`.

    Raises:
        PersonaError: the file is missing or of another format.
    """
    check_format(path, data_format)
    store = Store(folders)
    n_rows, rejected = 0, [artefacts.empty(artefacts.REJECTS)]
    for batch in _read_ahead(FORMATS[data_format].read(path, options)):
        usable = pl.col("reason").is_null()
        store.add(batch.rows.filter(usable))
        rejected += [as_rejects(batch.rows.filter(~usable)), batch.rejects]
        n_rows += batch.n_rows
    store.close()
    return n_rows, pl.concat(rejected)


@dataclass(frozen=True)
class Finished:
    """What is left of stored rows besides interactions and users: `artefacts.TITLES`, and repeats as rejects."""

    titles: pl.DataFrame
    repeats: pl.DataFrame


def finish(rows: Path, data_format: str, interactions: Path, users: Path) -> Finished:
    """Give stored rows their ids, set repeats aside, bring them in order, and write interactions and users."""
    titles, repeated = artefacts.empty(artefacts.TITLES), [artefacts.empty(artefacts.REJECTS)]
    with (
        artefacts.table_writer(interactions, artefacts.INTERACTIONS) as interactions_writer,
        artefacts.table_writer(users, artefacts.USERS) as users_writer,
    ):
        for some in stored(rows):
            kept, repeats = without_repeats(identify(some), FORMATS[data_format].repeated)
            ordered = in_order(kept)
            interactions_writer.write(ordered)
            users_writer.write(ordered.filter(pl.col("position") == 0))
            titles = sum_titles([titles, count_titles(ordered)])
            repeated.append(repeats)
    return Finished(titles, pl.concat(repeated))


def conclude(
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
        "kept": artefacts.count_rows(made / "interactions.parquet"),
        "rejected": rejects.height,
        "reasons": count_reasons(rejects),
        "users": artefacts.count_rows(made / "users.parquet"),
        "items": films.height,
    }
    _check_counts(path, data_format, counts, rejects, max_reject_share, folder)
    artefacts.write_table(films, folder / "items.parquet", artefacts.ITEMS)
    artefacts.write_table(rejects, folder / "rejects.parquet", artefacts.REJECTS)
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


def check_format(path: Path, data_format: str) -> None:
    """Look at the first bytes.

    Raises:
        PersonaError: they are not of the format; says of which one they are.
    """
    form = FORMATS[data_format]
    if not path.exists():
        raise PersonaError(f"{path}: no such file; set the data set's `path` to the raw data")
    if _is(path, form):
        return
    others = [name for name, other in FORMATS.items() if _is(path, other)]
    found = (
        f"it looks like {others[0]}: set the data set's `format`"
        if others
        else f"it begins with {_head(path, form)!r:.120}"
    )
    raise PersonaError(f"{path}: not {data_format}, which is {form.looks}; {found}")


def _is(path: Path, form: Format) -> bool:
    try:
        return form.recognises(_head(path, form))
    except PersonaError:
        return False


def _head(path: Path, form: Format) -> bytes:
    """How the (first) file of a format begins."""
    with open_raw(path, form.files[0] if form.files else None) as raw:
        return raw.read(HEAD)


def _check_counts(
    path: Path, data_format: str, counts: dict[str, Any], rejects: pl.DataFrame, limit: float, folder: Path
) -> None:
    rows, kept, rejected = (counts[name] for name in ("rows", "kept", "rejected"))
    if rows != kept + rejected:
        raise PersonaError(f"{path}: {rows} rows in, but {kept} kept and {rejected} rejected")
    if kept and rejected <= limit * rows:
        return
    aside = folder / TOO_MANY
    artefacts.write_table(rejects, aside, artefacts.REJECTS)
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
