"""Users, or the reviews of an item or of a time, fall into one split."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest

from persona.errors import PersonaError
from persona.seeded_hash import hash64_series, uniform
from persona.splitting import split_by_item, split_by_time, split_users

SPLITS = {"train", "val", "test"}


def reviews(users: int, each: int) -> pl.DataFrame:
    """Reviews of each user about items that others review as well, a day after the other."""
    rows = [
        (f"u{user:03}", user * each + n, f"i{(user + 7 * n) % 40}", date(2015, 1, 1) + timedelta(days=user + 10 * n))
        for user in range(users)
        for n in range(each)
    ]
    return pl.DataFrame(rows, schema=["user_id", "interaction_id", "item_id", "day"], orient="row")


def test_all_reviews_of_an_item_fall_into_one_split_and_users_into_several() -> None:
    given = reviews(100, 5)
    split = split_by_item(given, 0.2, 0.2, seed=1)
    joined = given.join(split, on=["user_id", "interaction_id"], validate="1:1")
    assert joined.height == given.height and set(joined["split"]) == SPLITS
    assert (joined.group_by("item_id").agg(pl.col("split").n_unique())["split"] == 1).all()
    assert joined.group_by("user_id").agg(pl.col("split").n_unique())["split"].max() == 3
    shuffled = split_by_item(given.sample(fraction=1.0, shuffle=True, seed=3), 0.2, 0.2, seed=1)
    assert shuffled.equals(split)


def test_an_item_is_where_users_of_one_item_each_have_always_been() -> None:
    """As the characters of a film: the hash of the item decides, test from below and val from above."""
    given = reviews(120, 1)
    items = given["item_id"].unique().sort()
    draw = dict(zip(items, uniform(hash64_series(items), 5), strict=True))
    expected = {item: "test" if u < 0.3 else "val" if u >= 0.8 else "train" for item, u in draw.items()}
    split = given.join(split_by_item(given, 0.2, 0.3, seed=5), on="interaction_id")
    assert split["split"].to_list() == [expected[item] for item in split["item_id"]]


def test_reviews_fall_into_the_split_of_their_day() -> None:
    given = reviews(50, 4)
    val_from, test_from = date(2015, 1, 31), date(2015, 2, 15)
    joined = given.join(split_by_time(given, val_from, test_from), on=["user_id", "interaction_id"])
    days = {name: joined.filter(pl.col("split") == name)["day"] for name in SPLITS}
    assert days["train"].max() == val_from - timedelta(days=1)
    assert (days["val"].min(), days["val"].max()) == (val_from, test_from - timedelta(days=1))
    assert days["test"].min() == test_from and sum(map(len, days.values())) == given.height


def test_a_split_by_time_needs_a_day_of_every_review() -> None:
    given = reviews(3, 2).with_columns(day=pl.when(pl.col("interaction_id") != 3).then("day"))
    message = "split.by: time needs the day of every text, but 1 of 6 have none, such as interaction 3 of user u001"
    with pytest.raises(PersonaError, match=message):
        split_by_time(given, date(2015, 1, 5), date(2015, 1, 8))


def test_users_with_too_few_reviews_are_left_out_and_move_nobody() -> None:
    reviews = pl.DataFrame({"user_id": [f"u{n:03}" for n in range(300) for _ in range(1 + n % 3)]})
    everyone = split_users(reviews, 0.2, 0.2, seed=1)
    limited = split_users(reviews, 0.2, 0.2, seed=1, min_reviews=3)
    left_out = limited.filter(pl.col("split") == "left_out")
    assert set(everyone["split"]) == SPLITS and limited.height == everyone.height
    assert left_out["user_id"].to_list() == [f"u{n:03}" for n in range(300) if n % 3 < 2]
    kept = limited.filter(pl.col("split") != "left_out")
    assert kept.equals(everyone.join(kept, on="user_id", how="semi"))


def test_all_reviews_of_a_left_out_user_are_left_out() -> None:
    given = pl.concat([reviews(60, 3), reviews(60, 1).with_columns(pl.col("user_id", "item_id") + "x")])
    by_time = split_by_time(given, date(2015, 1, 20), date(2015, 2, 10), min_reviews=2)
    for split in (split_by_item(given, 0.2, 0.2, 1, min_reviews=2), by_time):
        left_out = split.filter(pl.col("split") == "left_out")
        assert set(left_out["user_id"]) == {f"u{n:03}x" for n in range(60)}
