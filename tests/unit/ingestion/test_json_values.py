"""JSON values are returned checked, or the reason is raised."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from persona.ingestion.json_values import Unusable, as_context, as_day, as_json, as_name, as_profile, as_text
from persona.ingestion.settings import Options


def test_any_value_becomes_json_in_valid_unicode() -> None:
    assert as_json({"a": "好"}) == '{"a": "好"}'
    assert as_json(["\ud83d"]) == '["\\ud83d"]'


def test_values_are_returned_in_their_usual_form() -> None:
    assert as_text(" a ", "x") == "a"
    assert as_name(17, "x") == "17"
    assert as_day("2020-02-29T10:00:00", "x") == date(2020, 2, 29)


@pytest.mark.parametrize(
    ("check", "value", "reason"),
    [
        (as_text, None, "x is not text"),
        (as_text, "\ud83d", "x is not Unicode"),
        (as_name, True, "x is not text"),
        (as_name, " ", "x is empty"),
        (as_day, "2021-02-29", "x is not YYYY-MM-DD"),
        (as_day, "2021-02-2", "x is not YYYY-MM-DD"),
        (as_day, "2021-02-283", "x is not YYYY-MM-DD"),
    ],
)
def test_a_value_that_cannot_be_used_has_its_reason(check: Any, value: Any, reason: str) -> None:
    with pytest.raises(Unusable, match=f"^{reason}$"):
        check(value, "x")


def test_a_profile_keeps_its_order_and_leaves_out_names_if_asked_to() -> None:
    value = {"city": "Oslo", "Nickname": "Zelda", "tags": ["a", "b"], "nothing": None}
    fields, name = as_profile(value, Options())
    assert [tuple(field.values()) for field in fields] == [("city", "Oslo"), ("Nickname", "Zelda"), ("tags", "a, b")]
    assert name == "Zelda"
    fields, name = as_profile(value, Options(pseudonymise=True))
    assert [field["field"] for field in fields] == ["city", "tags"] and name == "Zelda"


def test_a_context_keeps_the_last_turns_that_say_something() -> None:
    turns = [{"by": "A", "said": text} for text in ("1", "2", " ", "3")]
    context = as_context(turns, "by", "said", "A", Options(max_context_turns=2, pseudonymise=True))
    assert context == [{"speaker": "SELF", "text": "2"}, {"speaker": "SELF", "text": "3"}]
    with pytest.raises(Unusable, match=r"context is not a list of \{by, said\}"):
        as_context({}, "by", "said", None, Options())
