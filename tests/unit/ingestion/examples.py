"""Small raw data of each format, and what ingestion made of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from persona.ingestion.cornell import SEPARATOR
from persona.ingestion.dmsc_csv import FORM
from tests.conftest import REAL_DATA

LINES = [
    "L3|u0|m0|VINCENT|Caf\xe9?",
    "L1|u0|m0|VINCENT|One.",
    "L2|u0|m0|VINCENT|<b>Two</b>.",
    "L9|u1|m0|MAN|",
    "L8|u2|m0|MAN|Eight.",
]

CONVERSATIONS = ["u0|u2|m0|['L8', 'L9']", "u0|u1|m0|['L1', 'L2', 'L3']"]


def write_raw(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([list(FORM.columns), *rows])
    return path


def raw_row(
    user: str = "甲", comment: str = " 好看", star: str = "5", day: str = "2016-01-02", film: str = "A"
) -> list[str]:
    return ["0", film, f"电影{film}", "2017-01-22", "1", user, day, star, comment, "3"]


def twin(user: dict[str, Any], data: list[Any], kind: str = "movie_review", **more: Any) -> dict[str, Any]:
    collections = [{"type": kind, "type_desc": "数据", "data": data}]
    return {"user": {"profile": user}, "task": {"description": "", "task_behavior_collections": collections}} | more


def entry(text: Any, film: str = "钢铁侠1", day: str | None = "2016-01-02", context: Any = ()) -> dict[str, Any]:
    prefix = f"{film}: "
    return {"context": list(context), "continuation": text, "continuation_prefix": prefix, "timestamp": day}


def write_twins(path: Path, twins: Any) -> Path:
    path.write_text(json.dumps(twins, ensure_ascii=False), encoding="utf-8")
    return path


def write_cornell(folder: Path, lines: list[str], conversations: list[str], end: str = "\n") -> Path:
    folder.mkdir()
    files = {
        "movie_titles_metadata.txt": ["m0|heat|1995/I|8|9|['crime', 'drama']", "m1|up|2009|8|9|[]"],
        "movie_characters_metadata.txt": ["u0|VINCENT|m0|heat|M|1000", "u1|MAN|m0|heat|?|?", "u2|MAN|m0|heat|f|3"],
        "movie_lines.txt": lines,
        "movie_conversations.txt": conversations,
    }
    for name, rows in files.items():
        text = end.join(row.replace("|", SEPARATOR) for row in rows) + end
        (folder / name).write_bytes(text.encode("latin-1"))
    return folder


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def simple(**values: Any) -> dict[str, Any]:
    return {"user": "u", "item": "i", "text": "好", "day": "2020-01-02"} | values


def real_dmsc(name: str) -> Path:
    path = REAL_DATA / "dmsc" / name
    if not path.exists():
        pytest.skip(f"the real slice {name} is not beside this repository")
    return path


def row_of(tables: Any, text: str) -> dict[str, Any]:
    return tables.interactions.filter(pl.col("text") == text).row(0, named=True)


def profile_of(tables: Any, user: str) -> dict[str, str]:
    fields = tables.users.filter(pl.col("user_id") == user)["profile"][0]
    return {field["field"]: field["value"] for field in fields}
