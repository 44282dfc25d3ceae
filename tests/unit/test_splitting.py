"""Users, or all users of an item, fall into one split."""

from __future__ import annotations

import polars as pl
import pytest

from persona.errors import PersonaError
from persona.splitting import split_users


def test_users_of_an_item_fall_into_one_split() -> None:
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(300)], "item_id": [f"i{n // 3}" for n in range(300)]})
    split = split_users(pl.concat([users, users]), 0.2, 0.2, seed=1, by="item").join(users, on="user_id")
    assert split.height == 300 and set(split["split"]) == {"train", "val", "test"}
    assert (split.group_by("item_id").agg(pl.col("split").n_unique())["split"] == 1).all()
    with pytest.raises(
        PersonaError,
        match=r"split.by: item needs users of one item each, but user u0 has several, i0, x; set split.by: user",
    ):
        split_users(pl.concat([users, pl.DataFrame({"user_id": ["u0"], "item_id": ["x"]})]), 0.2, 0.2, 1, by="item")


def test_users_with_too_few_reviews_are_left_out_and_move_nobody() -> None:
    reviews = pl.DataFrame({"user_id": [f"u{n:03}" for n in range(300) for _ in range(1 + n % 3)]})
    everyone = split_users(reviews, 0.2, 0.2, seed=1)
    limited = split_users(reviews, 0.2, 0.2, seed=1, min_reviews=3)
    left_out = limited.filter(pl.col("split") == "left_out")
    assert set(everyone["split"]) == {"train", "val", "test"} and limited.height == everyone.height
    assert left_out["user_id"].to_list() == [f"u{n:03}" for n in range(300) if n % 3 < 2]
    kept = limited.filter(pl.col("split") != "left_out")
    assert kept.equals(everyone.join(kept, on="user_id", how="semi"))
