"""The history of a target is its user's reviews of strictly earlier sessions."""

from __future__ import annotations

import polars as pl

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
