"""User-grouped JSON: reviews and dialogue, with and without timestamps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from persona.errors import PersonaError
from persona.ingestion.rows import MAX_CHARACTERS
from tests.ingesting import ingested
from tests.unit.ingestion.examples import entry, profile_of, real_dmsc, twin, write_twins


def test_the_real_user_comes_back_whole_and_in_order() -> None:
    path = real_dmsc("twin_json_one_user.json")
    written = json.loads(path.read_text(encoding="utf-8"))[0]["task"]["task_behavior_collections"][0]["data"]
    tables = ingested(path, "twin_json")
    assert not tables.rejects.height
    ordered = tables.interactions.sort("position")
    assert ordered["text"].to_list() == [e["continuation"].strip() for e in written]
    assert [str(day) for day in ordered["day"]] == [e["timestamp"] for e in written]
    assert ordered["item_id"].to_list() == [e["continuation_prefix"].removesuffix(": ") for e in written]
    assert profile_of(tables, ordered["user_id"][0]) == {"name": "Y"}


@pytest.mark.parametrize("as_list", [True, False])
def test_objects_of_one_user_hash_are_one_user(tmp_path: Path, as_list: bool) -> None:
    twins = [
        twin({"name": "甲"}, [entry("一", "A")], user_hash="x"),
        twin({"name": "乙"}, [entry("二", "A")], user_hash="y"),
        twin({"name": "甲"}, [entry("三", "B"), entry("一", "A")], user_hash="x"),
    ]
    path = tmp_path / "twins.json"
    if as_list:
        write_twins(path, twins)
    else:
        path.write_text("\n".join(json.dumps(t) for t in twins), encoding="utf-8")
    tables = ingested(path, "twin_json")
    assert tables.users.height == 2
    assert sorted(tables.interactions["text"]) == ["一", "三", "二"]
    assert tables.rejects.select("row", "reason").rows() == [(4, "the same record again")]


def test_without_timestamps_the_order_in_the_file_is_that_in_time(tmp_path: Path) -> None:
    said = [entry("No.", day=None), entry("Why?", day=None), entry("No.", day=None)]
    path = write_twins(tmp_path / "t.json", twin({"name": "A", "movie": "Heat"}, said, kind="dialogue"))
    tables = ingested(path, "twin_json")
    rows = tables.interactions.sort("position")
    assert rows["text"].to_list() == ["No.", "Why?", "No."] and rows["session"].to_list() == [0, 1, 2]
    assert set(rows["item_id"]) == {"Heat"} and rows["day"].null_count() == 3


def test_only_the_last_turns_of_a_context_are_kept(tmp_path: Path) -> None:
    turns = [{"source": "B", "content": f"line {n}"} for n in range(20)]
    path = write_twins(tmp_path / "t.json", [twin({"name": "A"}, [entry("ok", context=turns)], kind="dialogue")])
    context = ingested(path, "twin_json", max_context_turns=3).interactions["context"][0].to_list()
    assert context == [{"speaker": "B", "text": f"line {n}"} for n in (17, 18, 19)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("text", "not an object"),
        (entry(None), "continuation is not text"),
        (entry("  "), "blank text"),
        (entry("x" * (MAX_CHARACTERS + 1)), f"text of more than {MAX_CHARACTERS:,} characters"),
        (entry("a", film=""), "no film in continuation_prefix"),
        (entry("a", day="2016-13-01"), "timestamp is not YYYY-MM-DD"),
        (entry("a", day=None), "no timestamp, and other rows of this user have one"),
        (entry("a", context=["b"]), "context is not a list of {source, content}"),
    ],
)
def test_an_entry_that_cannot_be_used_is_set_aside(tmp_path: Path, bad: Any, reason: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps([twin({"name": "A"}, [entry("一", "A"), bad, entry("二", "B")])]))
    tables = ingested(path, "twin_json")
    assert sorted(tables.interactions["text"]) == ["一", "二"]
    assert tables.rejects.select("row", "reason").rows() == [(2, reason)]


@pytest.mark.parametrize("padding", range(60, 72))
def test_nan_outside_of_texts_is_null(tmp_path: Path, padding: int) -> None:
    """At every place relative to the blocks that the file is read in."""
    said = [entry('NaN, "NaN" \\', film="x" * padding), entry(": NaN]"), entry("Infinity")]
    profile = {"age": float("nan"), "depth": float("-inf"), "city": "Oslo"}
    tables = ingested(write_twins(tmp_path / "t.json", [twin(profile, said)]), "twin_json")
    assert sorted(tables.interactions["text"]) == [": NaN]", "Infinity", 'NaN, "NaN" \\']
    assert profile_of(tables, tables.users["user_id"].item()) == {"city": "Oslo"}


def test_an_object_with_a_key_twice_is_set_aside(tmp_path: Path) -> None:
    good, other = entry("一"), entry("二", "B")
    text = json.dumps([twin({"city": "Graz"}, [good, other]), twin({"city": "Oslo"}, [good])])
    text = text.replace('"continuation": "\\u4e8c"', '"continuation": "2", "continuation": "3"')
    path = tmp_path / "t.json"
    path.write_text(text.replace('"city": "Oslo"', '"city": "Oslo", "city": "Rome"'))
    tables = ingested(path, "twin_json")
    assert tables.interactions["text"].to_list() == ["一"]
    assert tables.rejects.sort("row").select("row", "reason").rows() == [
        (2, 'key "continuation" twice'), (3, 'key "city" twice')
    ]  # fmt: skip


def test_an_object_of_no_form_and_broken_json(tmp_path: Path) -> None:
    path = write_twins(tmp_path / "t.json", [{"name": "no task"}, twin({"name": "A"}, [entry("一")])])
    tables = ingested(path, "twin_json")
    assert (tables.interactions.height, tables.rejects["row"].to_list()) == (1, [1])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PersonaError, match=r"t\.json: not JSON: "):
        ingested(path, "twin_json")
