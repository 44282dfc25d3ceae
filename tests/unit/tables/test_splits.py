"""Which reviews are in a split, and which its prompts may show."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from persona.errors import PersonaError
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tables.splits import check_splits, read_split, reviews_in, shown_reviews, split_of_users

REVIEWS = pl.DataFrame(
    {"interaction_id": range(6), "user_id": ["a"] * 4 + ["b"] * 2, "position": [0, 1, 2, 3, 0, 1]},
    schema_overrides={"position": pl.Int32},
)
OF_REVIEWS = REVIEWS.select("user_id", "interaction_id").with_columns(
    split=pl.Series(["train", "test", "train", "val", "left_out", "left_out"])
)
OF_USERS = pl.DataFrame({"user_id": ["a", "b"], "split": ["train", "test"]})


@pytest.mark.parametrize(
    "name, members, shown", [("train", [0, 2], [0, 2]), ("val", [3], [0, 2, 3]), ("test", [1], [0, 1, 2, 3])]
)
def test_prompts_show_no_review_of_a_later_split(name: str, members: list[int], shown: list[int]) -> None:
    assert reviews_in(REVIEWS, OF_REVIEWS, name)["interaction_id"].to_list() == members
    visible = shown_reviews(REVIEWS, OF_REVIEWS, name).filter(pl.col("user_id") == "a")
    assert visible["interaction_id"].to_list() == shown
    assert visible["position"].to_list() == list(range(len(shown))), "no gap shows that one is hidden"
    assert visible.schema == REVIEWS.schema


def test_where_users_are_split_their_prompts_show_everything() -> None:
    assert reviews_in(REVIEWS, OF_USERS, "test")["interaction_id"].to_list() == [4, 5]
    for name in ("train", "val", "test"):
        assert shown_reviews(REVIEWS, OF_USERS, name).equals(REVIEWS)


def test_both_forms_are_read(tmp_path: Path) -> None:
    for split, schema in ((OF_USERS, schemas.SPLIT), (OF_REVIEWS, schemas.SPLIT_OF_REVIEWS)):
        write_table(split, tmp_path / "split.parquet", schema)
        assert read_split(tmp_path / "split.parquet").equals(split)
    with pytest.raises(PersonaError, match="no such file"):
        read_split(tmp_path / "other.parquet")


@pytest.mark.parametrize("empty", ["train", "val", "test"])
def test_an_empty_split_is_named(empty: str) -> None:
    check_splits(OF_REVIEWS)
    with pytest.raises(PersonaError, match=f"split: {empty} is empty"):
        check_splits(OF_REVIEWS.filter(pl.col("split") != empty))


def test_users_of_one_split_have_it_whatever_the_form() -> None:
    one = pl.DataFrame({"user_id": ["a", "a", "b"], "interaction_id": [0, 1, 2], "split": ["train", "train", "test"]})
    assert split_of_users(one).equals(split_of_users(OF_USERS))
    with pytest.raises(PersonaError, match="but user a is in test and train; choose another select"):
        split_of_users(OF_REVIEWS.filter(pl.col("split").is_in(["train", "test", "left_out"])))
