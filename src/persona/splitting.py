"""Each user -> train, val or test, by a hash of the user."""

from __future__ import annotations

import polars as pl

from persona.hashing import hash64_series, uniform


def split_users(users: pl.DataFrame, val_ratio: float, test_ratio: float, seed: int) -> pl.DataFrame:
    """Assign every `user_id` to a split.

    A user's split depends on the user and the seed alone: more data does not move anybody, and a larger
    `val_ratio` only adds users to val.
    """
    draw = pl.Series(uniform(hash64_series(users["user_id"]), seed))
    return users.select("user_id").with_columns(
        split=pl.when(draw < test_ratio)
        .then(pl.lit("test"))
        .when(draw >= 1 - val_ratio)
        .then(pl.lit("val"))
        .otherwise(pl.lit("train"))
    )
