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
