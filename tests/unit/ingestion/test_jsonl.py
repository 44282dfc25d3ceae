"""JSON lines of a user's own data: all keys, and the reason of each line that cannot be used."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.ingesting import ingested
from tests.unit.ingestion.examples import profile_of, simple, write_lines


def test_all_keys_of_jsonl(tmp_path: Path) -> None:
    row = simple(
        title="T",
        genres=["x", "y"],
        rating=4,
        likes=7,
        profile={"city": "Oslo", "age": 30},
        context=[{"speaker": "A", "text": "?"}],
    )
    tables = ingested(write_lines(tmp_path / "d.jsonl", [row, "", simple(user=17, day="2020-01-03T10:00:00")]), "jsonl")
    kept = tables.interactions.filter(pl.col("rating") == 4).row(0, named=True)
    assert (kept["day"], kept["likes"]) == (date(2020, 1, 2), 7)
    assert kept["context"] == [{"speaker": "A", "text": "?"}]
    assert tables.users.height == 2 and profile_of(tables, kept["user_id"]) == {"city": "Oslo", "age": "30"}


def test_ratings_are_of_any_scale(tmp_path: Path) -> None:
    ratings = [0, 10, 4.5, -3, None]
    rows = [simple(text=str(rating), rating=rating) for rating in ratings]
    found = ingested(write_lines(tmp_path / "d.jsonl", rows), "jsonl").interactions
    assert {text: rating for text, rating in found.select("text", "rating").iter_rows()} == {
        str(rating): rating for rating in ratings
    }


def test_nan_is_what_is_missing(tmp_path: Path) -> None:
    nan = float("nan")
    row = simple(rating=nan, likes=nan, title=nan, genres=nan, context=nan, profile={"age": nan, "home": "Graz"})
    tables = ingested(write_lines(tmp_path / "d.jsonl", [row]), "jsonl")
    kept = tables.interactions.row(0, named=True)
    assert (kept["rating"], kept["likes"], kept["context"]) == (None, None, [])
    assert tables.items.row(0) == ("i", "i", []) and profile_of(tables, kept["user_id"]) == {"home": "Graz"}


def test_a_text_of_emoji_or_punctuation_alone_is_text(tmp_path: Path) -> None:
    texts = ["👍🏽", "❤️", "…", "5", "\u200bא"]
    tables = ingested(write_lines(tmp_path / "d.jsonl", [simple(text=text) for text in texts]), "jsonl")
    assert set(tables.interactions["text"]) == set(texts)


def test_order_tells_the_time_where_days_do_not(tmp_path: Path) -> None:
    rows = [simple(text=str(n), order=n // 2, day=None) for n in (3, 0, 2, 1)]
    found = ingested(write_lines(tmp_path / "d.jsonl", rows), "jsonl").interactions
    assert dict(found.select("text", "session").iter_rows()) == {"0": 0, "1": 0, "2": 1, "3": 1}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not JSON in UTF-8"),
        ("[1]", "not an object"),
        (simple(stars=5), 'unknown key "stars"'),
        ({"user": "u", "item": "i"}, "no text"),
        (simple(text=5), "text is not text"),
        (simple(text="half a character \ud83d"), "text is not Unicode"),
        (simple(user=""), "user is empty"),
        (simple(day="02.01.2020"), "day is not YYYY-MM-DD"),
        (simple(day=None), "neither day nor order"),
        (simple(order=3), "order, which the first row does not have"),
        (simple(rating="5"), "rating is not a number from -1,000,000 to 1,000,000"),
        (simple(rating=True), "rating is not a number from -1,000,000 to 1,000,000"),
        (simple(rating=float("-inf")), "rating is not a number from -1,000,000 to 1,000,000"),
        (simple(rating=10**400), "rating is not a number from -1,000,000 to 1,000,000"),
        (simple(profile={"age": float("inf")}), "profile holds a number that is not finite"),
        ('{"user": "u", "item": "i", "day": "2020-01-02", "text": "a", "text": "b"}', 'key "text" twice'),
        (json.dumps(simple(profile={"a": 1})).replace('"a": 1', '"a": 1, "a": 2'), 'key "a" twice'),
        (simple(text="\u200b\ufeff \u0301"), "blank text"),
        (simple(text="\u3164"), "blank text"),
        (simple(user="\u200d"), "user is empty"),
        (simple(likes=-1), "likes is not a whole number"),
        (simple(genres="x"), "genres is not a list"),
        (simple(context=[{"speaker": "A"}]), "context.text is not text"),
        (simple(), "the same record again"),
    ],
)
def test_a_line_that_cannot_be_used_is_set_aside(tmp_path: Path, bad: Any, reason: str) -> None:
    tables = ingested(write_lines(tmp_path / "d.jsonl", [simple(), bad, simple(text="二")]), "jsonl")
    assert sorted(tables.interactions["text"]) == ["二", "好"]
    assert [r.split(":")[0] for r in tables.rejects["reason"]] == [reason]
