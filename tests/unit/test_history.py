"""The history of a target is its user's reviews of strictly earlier sessions."""

from __future__ import annotations

from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from persona.history import earlier_reviews, n_earlier


def test_reviews_of_earlier_sessions_are_paired_oldest_first() -> None:
    reviews = pl.DataFrame(
        {
            "interaction_id": [4, 1, 2, 3, 9],
            "user_id": ["a", "a", "a", "a", "b"],
            "session": [2, 0, 1, 1, 0],
            "position": [3, 0, 1, 2, 0],
            "text": ["four", "one", "two", "three", "other"],
        }
    )
    pairs = earlier_reviews(reviews.filter(pl.col("interaction_id") != 1), reviews)
    assert pairs.select("interaction_id", "history_id", "text").rows() == [
        (2, 1, "one"),
        (3, 1, "one"),  # not 2, which is of the same session
        (4, 1, "one"),
        (4, 2, "two"),
        (4, 3, "three"),
    ]
    counts = reviews.select("interaction_id", n=n_earlier()).rows()
    assert counts == [(4, 3), (1, 0), (2, 1), (3, 1), (9, 0)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30), st.none() | st.integers(0, 4))
def test_it_pairs_what_a_comparison_of_all_pairs_does(rows: list[tuple[str, int]], at_most: int | None) -> None:
    """Also for targets of sessions, and of users, that the reviews lack."""
    rows.sort()
    reviews = pl.DataFrame(
        [(n, user, session, n) for n, (user, session) in enumerate(rows) if n % 3],
        schema={"interaction_id": pl.Int64, "user_id": pl.String, "session": pl.Int32, "position": pl.Int32},
        orient="row",
    )
    targets = pl.DataFrame(
        [(100 + n, user, session) for n, (user, session) in enumerate([*rows, ("d", 3)])],
        schema={"interaction_id": pl.Int64, "user_id": pl.String, "session": pl.Int32},
        orient="row",
    )
    expected: list[Any] = []
    for target, user, session in targets.rows():
        past = [n for n, of, at, _ in reviews.rows() if of == user and at < session]
        expected += [(target, n) for n in past[len(past) - min(len(past), len(past) if at_most is None else at_most) :]]
    assert earlier_reviews(targets, reviews, at_most).select("interaction_id", "history_id").rows() == expected
