"""What of a user's reviews lies in the past of a target."""

from __future__ import annotations

import polars as pl


def earlier_reviews(targets: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """Pair every target with its user's reviews of a strictly earlier day and of other films, oldest first.

    Days are all that is known of the time, so another review of the same day may be a later one.

    Args:
        targets: with `interaction_id`, `user_id`, `item_id`, `day`.
        reviews: interactions, with any further columns.

    Returns:
        `interaction_id` (of the target), `history_id` and the columns of `reviews` but its keys.
    """
    keys = targets.select("interaction_id", "user_id", target_item="item_id", target_day="day")
    past = reviews.rename({"interaction_id": "history_id"})
    return (
        keys.join(past, on="user_id")
        .filter((pl.col("day") < pl.col("target_day")) & (pl.col("item_id") != pl.col("target_item")))
        .sort("interaction_id", "position")
        .drop("target_item", "target_day")
    )
