"""Each user -> train, val or test, by a hash of the user, or of the item that the user belongs to."""

from __future__ import annotations

from typing import Literal

import polars as pl

from persona.errors import PersonaError
from persona.seeded_hash import hash64_series, uniform


def split_users(
    users: pl.DataFrame, val_ratio: float, test_ratio: float, seed: int, by: Literal["user", "item"] = "user"
) -> pl.DataFrame:
    """Assign every `user_id` to a split.

    A user's split depends on the user (or item) and the seed alone: more data does not move anybody, and a larger
    `val_ratio` only adds users to val.

    Args:
        users: `user_id`, and with `by="item"` the `item_id` of each: all users of an item, such as the characters of a
            film, fall into one split.

    Raises:
        PersonaError: a user has several items, so that items cannot be kept apart.
    """
    users = users.select("user_id", *(["item_id"] if by == "item" else [])).unique().sort("user_id")
    if by == "item" and (several := users.filter(pl.col("user_id").is_duplicated())).height:
        raise PersonaError(
            f"split.by: item: user {several['user_id'][0]} has several items, "
            f"{', '.join(several.filter(pl.col('user_id') == several['user_id'][0])['item_id'].sort().head(3))}; "
            "allowed is user"
        )
    draw = pl.Series(uniform(hash64_series(users[f"{by}_id"]), seed))
    return users.select("user_id").with_columns(
        split=pl.when(draw < test_ratio)
        .then(pl.lit("test"))
        .when(draw >= 1 - val_ratio)
        .then(pl.lit("val"))
        .otherwise(pl.lit("train"))
    )
