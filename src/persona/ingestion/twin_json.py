r"""User-grouped JSON: one object per user, or a list of such objects.

    {"user_hash": ..., "user": {"profile": {...}}, "task": {"task_behavior_collections": [{"type": "movie_review",
    "data": [{"context": [{"source", "content"}], "continuation", "continuation_prefix": "Title: ", "timestamp"}]}]}}

`user_hash` may be absent, in which case the profile identifies the user, and may occur in several objects. In a
collection of reviews the prefix names the item. In any other collection, such as dialogue, the item is the film in the
profile, or the name of the collection. The parser reads a single escaped surrogate (`\ud83d` alone) as `?`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from persona.errors import PersonaError
from persona.ingestion.json_values import FIRST_DAY, Unusable, as_context, as_day, as_json, as_name, as_profile, as_text
from persona.ingestion.rows import Batch, Reject, make_batch
from persona.ingestion.settings import Options
from persona.ingestion.sources import RawFile, open_raw

BATCH = 20_000
FILM_FIELDS = ("movie", "film", "movie_title")

Row = dict[str, Any]


def recognises(head: bytes) -> bool:
    """Whether a file that begins with `head` is of this format."""
    return head.lstrip()[:1] in (b"{", b"[") and b'"task_behavior_collections"' in head


def read(path: Path, options: Options) -> Iterator[Batch]:
    """Read the file object by object. A row is an entry of `data`; rows are numbered from 1 through the whole file.

    Raises:
        PersonaError: the file is not JSON.
    """
    rows: list[Row] = []
    rejected: list[Reject] = []
    n_rows = 0
    undated: Counter[str] = Counter()
    with open_raw(path) as raw:
        for twin in _objects(raw):
            n_rows += _read_object(twin, path.name, n_rows, undated, options, rows, rejected)
            if len(rows) + len(rejected) >= BATCH:
                yield make_batch(rows, rejected)
                rows, rejected = [], []
    yield make_batch(rows, rejected)


def _objects(raw: RawFile) -> Iterator[Any]:
    """Read the objects of a list, or objects that follow each other."""
    first = b""
    while not first and (block := raw.read(64)):
        first = block.lstrip()
    prefix = "item" if first[:1] == b"[" else ""
    try:
        yield from ijson.items(_RestoredFile(first, raw), prefix, multiple_values=True, use_float=True)
    except ijson.JSONError as error:
        message = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise PersonaError(f"{raw.name}: not JSON: {' '.join(message.split())}") from error


class _RestoredFile:
    """A file that gives back first bytes that were already read from it."""

    def __init__(self, first: bytes, raw: RawFile) -> None:
        self.first, self.raw = first, raw

    def read(self, size: int) -> bytes:
        if not size:
            return b""
        first, self.first = self.first, b""
        return first or self.raw.read(size)


def _read_object(
    twin: Any,
    file: str,
    n_before: int,
    undated: Counter[str],
    options: Options,
    rows: list[Row],
    rejected: list[Reject],
) -> int:
    """Add the rows of one object to `rows` and `rejected`.

    Args:
        n_before: the number of entries before this object.
        undated: the number of rows of each user so far.

    Returns:
        The number of entries in the object; 1 for an object of another form.
    """
    try:
        user, profile, own_name, entries = _parts(twin, options)
    except Unusable as error:
        rejected.append((file, n_before + 1, str(error), as_json(twin)))
        return 1
    dated = any(isinstance(entry, dict) and entry.get("timestamp") for _, entry in entries)
    seen: Counter[str] = Counter()
    for number, (collection, entry) in enumerate(entries, start=n_before + 1):
        try:
            row = _row(entry, collection, profile, own_name, options)
            if dated and row["day"] is None:
                raise Unusable("no timestamp, and other rows of this user have one")
        except Unusable as error:
            rejected.append((file, number, str(error), as_json(entry)))
            continue
        content = as_json([row["item_id"], str(row["day"]), row["context"], row["text"]])
        # Without timestamps the order of the file is the order in time, and equal entries are different rows.
        row["key"] = content if dated else f"{seen[content]} {content}"
        row["moment"] = (row["day"] - FIRST_DAY).days if dated else undated[user]
        seen[content] += 1
        undated[user] += 1
        rows.append(row | {"file": file, "row": number, "raw": as_json(entry), "user": user, "profile": profile})
    return len(entries)


def _parts(
    twin: Any, options: Options
) -> tuple[str, list[dict[str, str]], str | None, list[tuple[dict[str, Any], Any]]]:
    """Take an object apart into user, profile, name, and the entries with their collections."""
    try:
        person, collections = twin["user"], twin["task"]["task_behavior_collections"]
        entries = [(collection, entry) for collection in collections for entry in collection["data"]]
        profile, own_name = as_profile(person.get("profile") or {}, options)
        user = twin.get("user_hash") or person.get("user_hash")
    except (KeyError, TypeError, AttributeError) as error:
        raise Unusable("not an object with user and task.task_behavior_collections[].data") from error
    return as_name(user, "user_hash") if user else as_json(person), profile, own_name, entries


def _row(
    entry: Any, collection: dict[str, Any], profile: list[dict[str, str]], own_name: str | None, options: Options
) -> Row:
    if not isinstance(entry, dict):
        raise Unusable("not an object")
    prefix = as_text(entry.get("continuation_prefix") or "", "continuation_prefix").rstrip(":： ")
    title = prefix if "review" in str(collection.get("type")) else _item(collection, profile)
    if not title:
        raise Unusable("no film in continuation_prefix")
    stamp = entry.get("timestamp")
    return {
        "item_id": title,
        "title": title,
        "text": as_text(entry.get("continuation"), "continuation"),
        "context": as_context(entry.get("context") or [], "source", "content", own_name, options),
        "day": as_day(stamp, "timestamp") if stamp else None,
    }


def _item(collection: dict[str, Any], profile: list[dict[str, str]]) -> str:
    films = [field["value"] for field in profile if field["field"].lower() in FILM_FIELDS]
    return films[0] if films else as_text(str(collection.get("type_desc") or collection.get("type") or ""), "type")
