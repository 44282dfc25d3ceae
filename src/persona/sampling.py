"""Samples at most N targets of each of at most M users; samples with one seed are nested."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from persona.errors import PersonaError
from persona.history import n_earlier
from persona.seeded_hash import hash64_series, id_priority, mix64
from persona.tables.parquet import count_rows
from persona.tables.splits import reviews_in, shown_reviews


def sample_targets(
    interactions: pl.DataFrame,
    split: pl.DataFrame,
    split_name: str,
    max_samples_per_user: int | None,
    max_users: int | None,
    seed: int,
    min_history: int = 0,
) -> pl.DataFrame:
    """Choose the targets of one split: the users with the smallest priorities and the reviews of each likewise.

    A priority is a hash of the id and the seed. So with one seed and one `min_history`, 2 targets per user are a subset
    of 5 per user, the targets of 1,000 users are a subset of those of 10,000, and the choice does not depend on the
    order of rows.

    Given a part of the users, this may choose more users of it than given all of them; `limit_users` on the joined
    parts removes these.

    Args:
        interactions: all those of each user, with `interaction_id`, `user_id`, `item_id`, `session`.
        split: with the columns of `schemas.SPLIT` or `schemas.SPLIT_OF_REVIEWS`.
        split_name: the split to sample from.
        max_samples_per_user, max_users: None for all.
        min_history: only reviews with at least so many earlier ones that prompts of the split may show are targets,
            and only users with such a review count for `max_users`.

    Returns:
        `interaction_id`, `user_id`, `item_id`.
    """
    reviews = interactions.select("interaction_id", "user_id", "item_id", "session")
    if min_history:
        reviews = shown_reviews(reviews, split, split_name).filter(n_earlier() >= min_history)
    targets = reviews_in(reviews, split, split_name)
    targets = limit_users(targets.drop("session"), max_users, seed)
    if max_samples_per_user is not None:
        targets = _smallest_priorities(targets, max_samples_per_user, seed)
    return targets


def limit_users(rows: pl.DataFrame, max_users: int | None, seed: int) -> pl.DataFrame:
    """Keep the rows of the `max_users` users with the smallest priorities; None keeps all rows."""
    if max_users is None:
        return rows
    users = rows.select("user_id").unique()
    # A different hash from that of the split: with the same one, val would take the users at the edge of its range.
    priority = pl.Series("priority", mix64(hash64_series("cohort " + users["user_id"]), seed))
    chosen = users.with_columns(priority).sort("priority", "user_id").head(max_users)
    return rows.join(chosen, on="user_id", how="semi")


def check_sample(path: Path, split_name: str) -> None:
    """Check a sample that was written.

    Raises:
        PersonaError: it is empty.
    """
    if not count_rows(path):
        raise PersonaError(
            f"{path}: no user of the {split_name} split has a target; raise the split's ratio (by time move its "
            "dates), lower min_history or min_reviews_per_user, or add more users"
        )


def _smallest_priorities(targets: pl.DataFrame, k: int, seed: int) -> pl.DataFrame:
    priority = id_priority(targets["interaction_id"], seed)
    ordered = targets.with_columns(priority).sort("user_id", "priority", "interaction_id")
    return ordered.filter(pl.int_range(pl.len()).over("user_id") < k).drop("priority")
