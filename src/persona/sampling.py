"""Samples at most N targets per user; samples with one seed are nested."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from persona.errors import PersonaError
from persona.seeded_hash import hash64_series, id_priority, mix64
from persona.tables.parquet import count_rows


def sample_targets(
    interactions: pl.DataFrame,
    split: pl.DataFrame,
    split_name: str,
    max_samples_per_user: int | None,
    max_users: int | None,
    seed: int,
) -> pl.DataFrame:
    """Choose the targets of one split: the users with the smallest priorities and the reviews of each likewise.

    A priority is a hash of the id and the seed. So with one seed, 2 targets per user are a subset of 5 per user, and
    the choice does not depend on the order of rows.

    Given a part of the users, this may choose more users of it than given all of them; `limit_users` on the joined
    parts removes these.

    Args:
        interactions: with `interaction_id`, `user_id`, `item_id`.
        split: with the columns of `schemas.SPLIT`.
        split_name: the split to sample from.
        max_samples_per_user, max_users: None for all.

    Returns:
        `interaction_id`, `user_id`, `item_id`.
    """
    members = split.filter(pl.col("split") == split_name).select("user_id")
    targets = interactions.select("interaction_id", "user_id", "item_id")
    targets = targets.join(limit_users(members, max_users, seed), on="user_id", how="semi")
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
        raise PersonaError(f"{path}: the {split_name} split has no user; raise its ratio or add more users")


def _smallest_priorities(targets: pl.DataFrame, k: int, seed: int) -> pl.DataFrame:
    priority = id_priority(targets["interaction_id"], seed)
    ordered = targets.with_columns(priority).sort("user_id", "priority", "interaction_id")
    return ordered.filter(pl.int_range(pl.len()).over("user_id") < k).drop("priority")
