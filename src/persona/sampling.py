"""At most N targets a user, seeded and nested."""

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
    """Choose the targets of one split: the users and, of each, the reviews of smallest priority.

    A priority is a hash of the id and the seed. So with one seed 2 a user are among 5 a user, 5 among all,
    and the choice does not depend on the order of rows.

    Of a part of the users it chooses what it would of all, and maybe more users: `limit_users` of all parts
    takes them away.

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
    """The rows of the `max_users` users of smallest priority."""
    if max_users is None:
        return rows
    users = rows.select("user_id").unique()
    # Another hash than the one that split the users, or val would take from the edge of its range.
    priority = pl.Series("priority", mix64(hash64_series("cohort " + users["user_id"]), seed))
    chosen = users.with_columns(priority).sort("priority", "user_id").head(max_users)
    return rows.join(chosen, on="user_id", how="semi")


def check_sample(path: Path, split_name: str) -> None:
    """Look at a sample that was written.

    Raises:
        PersonaError: it has no target.
    """
    if not count_rows(path):
        raise PersonaError(f"no user fell into the {split_name} split: raise its ratio or bring more users")


def _smallest_priorities(targets: pl.DataFrame, k: int, seed: int) -> pl.DataFrame:
    priority = id_priority(targets["interaction_id"], seed)
    ordered = targets.with_columns(priority).sort("user_id", "priority", "interaction_id")
    return ordered.filter(pl.int_range(pl.len()).over("user_id") < k).drop("priority")
