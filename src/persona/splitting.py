"""Assigns each user to train, val or test by a hash of the user, or of the item that the user belongs to.

Users with too few reviews are left out of all three.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from persona.errors import PersonaError
from persona.seeded_hash import hash64_series, uniform

LEFT_OUT = "left_out"


def split_users(
    reviews: pl.DataFrame,
    val_ratio: float,
    test_ratio: float,
    seed: int,
    by: Literal["user", "item"] = "user",
    min_reviews: int = 1,
) -> pl.DataFrame:
    """Assign every `user_id` to a split.

    Which split depends only on the user (or item) and the seed: more data moves no user from one to another, and a
    larger `val_ratio` only adds users to val.

    Args:
        reviews: with `user_id`, and for `by="item"` with `item_id`. All users of an item, such as the characters of a
            film, are then in one split.
        min_reviews: users with fewer reviews are in no split.

    Returns:
        `user_id`, `split`: `train`, `val`, `test`, or `left_out` for users in no split.

    Raises:
        PersonaError: `by="item"`, and a user has several items, so the split is not possible.
    """
    few = reviews.group_by("user_id").len().filter(pl.col("len") < min_reviews)["user_id"]
    users = reviews.select("user_id", *(["item_id"] if by == "item" else [])).unique().sort("user_id")
    if by == "item" and (several := users.filter(pl.col("user_id").is_duplicated())).height:
        user = several["user_id"][0]
        items = several.filter(pl.col("user_id") == user)["item_id"].sort().head(3)
        raise PersonaError(
            f"split.by: item needs users of one item each, but user {user} has several, {', '.join(items)}; "
            "set split.by: user"
        )
    draw = pl.Series(uniform(hash64_series(users[f"{by}_id"]), seed))
    return users.select("user_id").with_columns(
        split=pl.when(pl.col("user_id").is_in(few.implode()))
        .then(pl.lit(LEFT_OUT))
        .when(draw < test_ratio)
        .then(pl.lit("test"))
        .when(draw >= 1 - val_ratio)
        .then(pl.lit("val"))
        .otherwise(pl.lit("train"))
    )
