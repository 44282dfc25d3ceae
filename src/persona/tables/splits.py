"""The split table: of whole users, or of single reviews where a user may be in several splits."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from persona.errors import PersonaError
from persona.tables import schemas
from persona.tables.parquet import read_table

# Prompts of one show nothing of those after it.
SPLITS = ("train", "val", "test")


def read_split(path: Path, users: tuple[str, str] | None = None) -> pl.DataFrame:
    """Read a split table of either form; `users` as in `read_table`."""
    of_reviews = False
    with suppress(pa.ArrowInvalid, OSError):  # a file that is missing or damaged is refused below
        of_reviews = "interaction_id" in pq.read_schema(path).names
    return read_table(path, schemas.SPLIT_OF_REVIEWS if of_reviews else schemas.SPLIT, users=users)


def reviews_in(reviews: pl.DataFrame, split: pl.DataFrame, name: str) -> pl.DataFrame:
    """The reviews that are in a split.

    Args:
        reviews: with `user_id`, `interaction_id`.
        split: with the columns of `schemas.SPLIT` or `schemas.SPLIT_OF_REVIEWS`.
        name: `train`, `val` or `test`.
    """
    members = split.filter(pl.col("split") == name).drop("split")
    return reviews.join(members, on=members.columns, how="semi", maintain_order="left")


def shown_reviews(reviews: pl.DataFrame, split: pl.DataFrame, name: str) -> pl.DataFrame:
    """The reviews that the prompts of a split may show.

    Prompts of train show no review of val or test, and prompts of val none of test. Where whole users are in a split,
    that is so anyway. `position`, if it is there, is counted anew, so that prompts do not show that a review is hidden.

    Args:
        reviews: all reviews of each user.
        split, name: as in `reviews_in`.
    """
    later = SPLITS[SPLITS.index(name) + 1 :]
    if "interaction_id" not in split.columns or not later:
        return reviews
    hidden = split.filter(pl.col("split").is_in(later))
    shown = reviews.join(hidden, on="interaction_id", how="anti", maintain_order="left")
    return shown.with_columns(
        pl.col(name).rank("ordinal").over("user_id").cast(pl.Int32) - 1 for name in shown.columns if name == "position"
    )


def split_of_users(split: pl.DataFrame) -> pl.DataFrame:
    """The split of each user, with the columns of `schemas.SPLIT`.

    Raises:
        PersonaError: a user is in several.
    """
    users = split.select("user_id", "split").unique().sort("user_id")
    several = users.filter(pl.col("user_id").is_duplicated())
    if several.height:
        raise PersonaError(
            f"select: other_user shows a user of the same split, but user {several['user_id'][0]} is in "
            f"{' and '.join(several['split'][:2].sort())}; choose another select, or split.by: user"
        )
    return users


def check_splits(split: pl.DataFrame) -> None:
    """Check that there is something to train on, to validate on and to test on.

    Raises:
        PersonaError: train, val or test is empty.
    """
    for name in SPLITS:
        if not (split["split"] == name).any():
            raise PersonaError(
                f"split: {name} is empty; raise split.val_ratio and split.test_ratio (with by: time move "
                "split.val_from and split.test_from), lower min_reviews_per_user, or add more users"
            )
