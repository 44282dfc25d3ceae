"""Batches of Python values have all columns, and texts that cannot be used have a reason."""

from __future__ import annotations

from typing import Any

import pytest

from persona.ingestion.rows import MAX_CHARACTERS, MAX_CHARACTERS_OF_A_NAME, ROWS, make_batch


def test_missing_columns_are_empty() -> None:
    made = make_batch([{"user": "u", "text": "好"}], [("f", 2, "not JSON", "{")])
    assert dict(made.rows.schema) == ROWS
    row = made.rows.row(0, named=True)
    assert (row["genres"], row["context"], row["profile"], row["row_order"], row["day"]) == ([], [], [], 0, None)
    assert made.rejects.rows() == [("f", 2, "not JSON", "{")] and made.n_rows == 2


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"text": "x" * MAX_CHARACTERS}, None),
        ({"text": "x" * (MAX_CHARACTERS + 1)}, f"text of more than {MAX_CHARACTERS:,} characters"),
        ({"text": " \n"}, "blank text"),
        ({"text": "", "reason": "first"}, "first"),
        ({"title": "x" * (MAX_CHARACTERS_OF_A_NAME + 1)}, "item or title of more than 1,000 characters"),
    ],
)
def test_the_first_reason_of_a_row_is_given(values: dict[str, Any], reason: str | None) -> None:
    row = {"user": "u", "item_id": "i", "title": "t", "text": "好"} | values
    assert make_batch([row], []).rows["reason"].to_list() == [reason]
