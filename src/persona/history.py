"""Finds and counts the reviews that are in the past of a target."""

from __future__ import annotations

import polars as pl


def earlier_reviews(targets: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Pair every target with its user's reviews of strictly earlier sessions, oldest first.

    Reviews of one session (a day, a conversation) have no order in time, so none of them counts as earlier.

    Args:
        targets: with `interaction_id`, `user_id`, `session`.
        reviews: interactions, with any further columns.

    Returns:
        `interaction_id` (of the target), `history_id` (of the earlier review), `user_id` and the other columns of
        `reviews`, sorted by target and position.
    """
    keys = targets.select("interaction_id", "user_id", target_session="session")
    past = reviews.rename({"interaction_id": "history_id"})
    return (
        keys.join(past, on="user_id")
        .filter(pl.col("session") < pl.col("target_session"))
        .sort("interaction_id", "position")
        .drop("target_session")
    )


def n_earlier() -> pl.Expr:
    """For each review the number of those that `earlier_reviews` pairs it with.

    The table must hold all reviews of its users, with `user_id` and `session`.
    """
    return pl.col("session").rank("min").over("user_id") - 1
