"""Assigns users, or their reviews by item or by day, to train, val or test.

Users with too few reviews are left out of all three.
"""

from __future__ import annotations

from datetime import date

import polars as pl

from persona.errors import PersonaError
from persona.seeded_hash import hash64_series, uniform

LEFT_OUT = "left_out"


def split_users(
    reviews: pl.DataFrame, val_ratio: float, test_ratio: float, seed: int, min_reviews: int = 1
) -> pl.DataFrame:
    """Assign every user to a split.

    Which split depends only on the user and the seed: more data moves no user from one to another, and a larger
    `val_ratio` only adds users to val.

    Args:
        reviews: with `user_id`.
        min_reviews: users with fewer reviews are in no split.

    Returns:
        `user_id`, `split`: `train`, `val`, `test`, or `left_out` for users in no split.
    """
    few = reviews.group_by("user_id").len().filter(pl.col("len") < min_reviews)["user_id"]
    users = reviews.select("user_id").unique().sort("user_id")
    drawn = _draw(users["user_id"], val_ratio, test_ratio, seed)
    return users.with_columns(
        split=pl.when(pl.col("user_id").is_in(few.implode())).then(pl.lit(LEFT_OUT)).otherwise(drawn)
    )


def split_by_item(
    reviews: pl.DataFrame, val_ratio: float, test_ratio: float, seed: int, min_reviews: int = 1
) -> pl.DataFrame:
    """Assign every review to the split of its item, which depends only on the item and the seed.

    Args:
        reviews: with `user_id`, `interaction_id`, `item_id`.
        min_reviews: users with fewer reviews are in no split.

    Returns:
        `user_id`, `interaction_id`, `split`, as `split_users`.
    """
    return _of_reviews(reviews, _draw(reviews["item_id"], val_ratio, test_ratio, seed), min_reviews)


def split_by_time(reviews: pl.DataFrame, val_from: date, test_from: date, min_reviews: int = 1) -> pl.DataFrame:
    """Assign every review to train, val or test by its day, so a user may be in all three.

    Args:
        reviews: with `user_id`, `interaction_id`, `day`.
        val_from: the first day of val; earlier reviews are in train.
        test_from: the first day of test.
        min_reviews: users with fewer reviews are in no split.

    Returns:
        `user_id`, `interaction_id`, `split`, as `split_users`.

    Raises:
        PersonaError: a review has no day.
    """
    undated = reviews.filter(pl.col("day").is_null()).sort("user_id", "interaction_id")
    if undated.height:
        raise PersonaError(
            f"split.by: time needs the day of every text, but {undated.height:,} of {reviews.height:,} have none, such "
            f"as interaction {undated['interaction_id'][0]} of user {undated['user_id'][0]}; set split.by: user"
        )
    by_day = pl.when(pl.col("day") < val_from).then(pl.lit("train"))
    named = reviews.select(by_day.when(pl.col("day") < test_from).then(pl.lit("val")).otherwise(pl.lit("test")))
    return _of_reviews(reviews, named.to_series(), min_reviews)


def _draw(ids: pl.Series, val_ratio: float, test_ratio: float, seed: int) -> pl.Series:
    """The split of each id, by a hash of the id and the seed."""
    draw = pl.Series(uniform(hash64_series(ids), seed))
    test, val = pl.when(draw < test_ratio).then(pl.lit("test")), draw >= 1 - val_ratio
    return pl.select(test.when(val).then(pl.lit("val")).otherwise(pl.lit("train"))).to_series()


def _of_reviews(reviews: pl.DataFrame, split: pl.Series, min_reviews: int) -> pl.DataFrame:
    is_few = pl.len().over("user_id") < min_reviews
    return reviews.select(
        "user_id", "interaction_id", split=pl.when(is_few).then(pl.lit(LEFT_OUT)).otherwise(split)
    ).sort("user_id", "interaction_id")
