r"""User-grouped JSON: one object per user, or a list of such objects.

    {"user_hash": ..., "user": {"profile": {...}}, "task": {"task_behavior_collections": [{"type": "movie_review",
    "data": [{"context": [{"source", "content"}], "continuation", "continuation_prefix": "Title: ", "timestamp"}]}]}}

`user_hash` may be absent, in which case the profile identifies the user, and may occur in several objects. In a
collection of reviews the prefix names the item. In any other collection, such as dialogue, the item is the film in the
profile, or the name of the collection. The parser reads a single escaped surrogate (`\ud83d` alone) as `?`.
NaN and Infinity, which are not JSON but which Python writes for missing numbers, are read as null.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from persona.errors import PersonaError
from persona.ingestion.json_values import FIRST_DAY, Unusable, as_context, as_day, as_json, as_name, as_profile, as_text
from persona.ingestion.rows import Batch, Reject, is_visible, make_batch
from persona.ingestion.settings import Options
from persona.ingestion.sources import RawFile, open_raw

BATCH = 20_000
REST_OF_TEXT = re.compile(rb'(?:[^"\\]|\\.)*"?', re.DOTALL)
TEXT_OR_NAN = re.compile(rb'(?P<text>"(?:[^"\\]|\\.)*"?)|-?(?:NaN|Infinity)', re.DOTALL)
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
        file = _WithoutNan(first, raw)
        yield from ijson.items(file, prefix, multiple_values=True, use_float=True, map_type=_Mapping)
    except ijson.JSONError as error:
        message = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise PersonaError(f"{raw.name}: not JSON: {' '.join(message.split())}") from error


class _Mapping(dict[str, Any]):
    """An object of the file, which remembers a key that it has twice."""

    repeated: str | None = None

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.repeated = key
        super().__setitem__(key, value)


def _check_keys(value: Any) -> None:
    """Check that no object in a value has a key twice, but for the entries of `data`, which are rows of their own.

    Raises:
        Unusable: one has.
    """
    if isinstance(value, _Mapping) and value.repeated is not None:
        raise Unusable(f"key {as_json(value.repeated)} twice")
    inner = [v for k, v in value.items() if k != "data"] if isinstance(value, dict) else value
    for each in inner if isinstance(inner, list) else []:
        _check_keys(each)


class _WithoutNan:
    """The file, with null for NaN and Infinity outside of texts. It gives back bytes that were already read from it."""

    def __init__(self, first: bytes, raw: RawFile) -> None:
        self.held, self.raw, self.in_text = first, raw, False

    def read(self, size: int) -> bytes:
        if not size:
            return b""
        # What may go on in the next block waits for it: an escape, or a part of a word.
        while block := self.raw.read(size):
            block = self.held + block
            whole = block.rstrip(b"\\")
            if whole == block:
                whole = block[:-9] + block[-9:].rstrip(b"-NaInfity")
            self.held = block[len(whole) :]
            if whole:
                return self._replaced(whole)
        block, self.held = self.held, b""
        return self._replaced(block)

    def _replaced(self, block: bytes) -> bytes:
        quotes = block.replace(rb"\\", b"").replace(rb"\"", b"").count(b'"')
        was_in_text, self.in_text = self.in_text, self.in_text != bool(quotes % 2)
        if b"NaN" not in block and b"Infinity" not in block:
            return block
        # Within a text the first match ends at its closing quote.
        start = REST_OF_TEXT.match(block).end() if was_in_text else 0  # type: ignore[union-attr]
        return block[:start] + TEXT_OR_NAN.sub(lambda found: found["text"] or b"null", block[start:])


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
        _check_keys(twin)
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
    _check_keys(entry)
    prefix = as_text(entry.get("continuation_prefix") or "", "continuation_prefix").rstrip(":： ")
    title = prefix if "review" in str(collection.get("type")) else _item(collection, profile)
    if not is_visible(title):
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
