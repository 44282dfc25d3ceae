"""Finds and counts the reviews that are in the past of a target."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from persona.tables.lists import all_between

Int64s = npt.NDArray[np.int64]


def earlier_reviews(targets: pl.DataFrame, reviews: pl.DataFrame, at_most: int | None = None) -> pl.DataFrame:
    """Pair every target with its user's reviews of strictly earlier sessions, oldest first.

    Reviews of one session (a day, a conversation) have no order in time, so none of them counts as earlier.

    Args:
        targets: with `interaction_id`, `user_id`, `session`.
        reviews: interactions, with any further columns.
        at_most: only the last so many reviews of each target; by default all.

    Returns:
        `interaction_id` (of the target), `history_id` (of the earlier review), `user_id` and the other columns of
        `reviews`, sorted by target, session and position.
    """
    keys = targets.select("interaction_id", "user_id", "session").sort("interaction_id")
    past = reviews.rename({"interaction_id": "history_id"}).sort("user_id", "session", "position")
    first, end = earlier_rows(keys, past)
    if at_most is not None:
        first = np.maximum(first, end - at_most)
    owners = keys["interaction_id"].gather(np.repeat(np.arange(keys.height), end - first))
    return past[all_between(first, end)].insert_column(0, owners)


def earlier_rows(targets: pl.DataFrame, reviews: pl.DataFrame) -> tuple[Int64s, Int64s]:
    """Where the earlier reviews of each target stand in a table sorted by user and session.

    Args:
        targets: with `user_id`, `session`.
        reviews: with `user_id`, `session`, sorted.

    Returns:
        The first row, and the row after the last one, `[n_targets]`. They are equal where there is none.
    """
    rows = reviews.select("user_id", "session").with_row_index("at")
    users = rows.group_by("user_id").agg(first=pl.col("at").min())
    sessions = rows.group_by("user_id", "session").agg(end=pl.col("at").max() + 1).sort("user_id", "session")
    asked = targets.select("user_id", "session").with_row_index("row").sort("user_id", "session")
    found = asked.join_asof(sessions, on="session", by="user_id", allow_exact_matches=False, check_sortedness=False)
    found = found.join(users, on="user_id", how="left").sort("row")
    first = found["first"].fill_null(0).to_numpy().astype(np.int64)
    return first, found["end"].fill_null(found["first"].fill_null(0)).to_numpy().astype(np.int64)


def n_earlier() -> pl.Expr:
    """For each review the number of those that `earlier_reviews` pairs it with.

    The table must hold all reviews of its users, with `user_id` and `session`.
    """
    return pl.col("session").rank("min").over("user_id") - 1
