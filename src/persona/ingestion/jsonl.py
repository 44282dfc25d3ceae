"""A simple format for your own data: one JSON object per line. `docs/your-own-data.md` describes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from persona.ingestion.json_values import (
    FIRST_DAY,
    Unusable,
    as_context,
    as_day,
    as_json,
    as_name,
    as_profile,
    as_text,
    parse_json,
)
from persona.ingestion.rows import Batch, Reject, make_batch
from persona.ingestion.settings import Options
from persona.ingestion.sources import open_raw

BATCH = 20_000
MAX_RATING = 1_000_000
REQUIRED = {"user", "item", "text"}
OPTIONAL = {"id", "day", "order", "title", "genres", "rating", "likes", "profile", "context"}


def recognises(head: bytes) -> bool:
    """Whether a file that begins with `head` is of this format."""
    first = head.lstrip().split(b"\n", 1)[0]
    try:
        return {"user", "text"} <= set(json.loads(first))
    except (ValueError, TypeError, RecursionError):
        return first[:1] == b"{" and b'"user"' in first and b'"text"' in first


def read(path: Path, options: Options) -> Iterator[Batch]:
    """Read the file line by line. The first usable row decides whether `order` or `day` is the time of the rows."""
    rows: list[dict[str, Any]] = []
    rejected: list[Reject] = []
    ordered: bool | None = None
    with open_raw(path) as raw:
        for number, line in enumerate(raw.lines(), start=1):
            if not line.strip():
                continue
            text = line.decode(errors="backslashreplace")
            try:
                row = _row(line, options)
                ordered = row["moment"] is not None if ordered is None else ordered
                _set_moment(row, ordered)
                rows.append(row | {"file": path.name, "row": number, "raw": text})
            except Unusable as error:
                rejected.append((path.name, number, str(error), text))
            if len(rows) + len(rejected) >= BATCH:
                yield make_batch(rows, rejected)
                rows, rejected = [], []
    yield make_batch(rows, rejected)


def _row(line: bytes, options: Options) -> dict[str, Any]:
    data = parse_json(line)
    if not isinstance(data, dict):
        raise Unusable("not an object")
    for key in sorted(set(data) - REQUIRED - OPTIONAL):
        raise Unusable(f"unknown key {as_json(key)}")
    for key in sorted(REQUIRED - set(data)):
        raise Unusable(f"no {key}")
    item = as_name(data["item"], "item")
    profile, own_name = as_profile(data.get("profile") or {}, options)
    day = data.get("day")
    return {
        "user": as_name(data["user"], "user"),
        "item_id": item,
        "title": as_name(data.get("title") or item, "title"),
        "text": as_text(data["text"], "text"),
        "genres": _genres(data.get("genres") or []),
        "day": None if day is None else as_day(day, "day"),
        "moment": _whole(data.get("order"), "order", -(2**62), 2**62),
        "rating": _rating(data.get("rating")),
        "likes": _whole(data.get("likes"), "likes", 0, 2**31 - 1),
        "profile": profile,
        "context": as_context(data.get("context") or [], "speaker", "text", own_name, options),
        "key": as_json([data.get(key) for key in ("id", "item", "day", "order", "text")])
        if data.get("id") is None
        else as_name(data["id"], "id"),
    }


def _set_moment(row: dict[str, Any], ordered: bool) -> None:
    """Set the moment of a row: its `order`, or its day if the first row of the file has no `order`."""
    if ordered and row["moment"] is None:
        raise Unusable("no order, which the first row has")
    if not ordered and row["moment"] is not None:
        raise Unusable("order, which the first row does not have")
    if not ordered and row["day"] is None:
        raise Unusable("neither day nor order")
    if not ordered:
        row["moment"] = (row["day"] - FIRST_DAY).days


def _genres(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise Unusable("genres is not a list")
    return [as_name(genre, "genres") for genre in value]


def _whole(value: Any, name: str, low: int, high: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Unusable(f"{name} is not a whole number")
    return value


def _rating(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_RATING:
        raise Unusable(f"rating is not a number from -{MAX_RATING:,} to {MAX_RATING:,}")
    return float(value)
