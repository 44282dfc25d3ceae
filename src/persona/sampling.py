"""At most N targets a user, seeded and nested."""

from __future__ import annotations

import polars as pl

from persona.errors import PersonaError
from persona.hashing import hash64_series, id_priority, mix64


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

    Returns:
        `interaction_id`, `user_id`, `item_id`.

    Raises:
        PersonaError: no target is left.
    """
    members = split.filter(pl.col("split") == split_name).select("user_id")
    if max_users is not None:
        # Another hash than the one that split the users, or val would take from the edge of its range.
        priority = pl.Series("priority", mix64(hash64_series("cohort " + members["user_id"]), seed))
        members = members.with_columns(priority).sort("priority", "user_id").head(max_users)
    targets = interactions.select("interaction_id", "user_id", "item_id").join(
        members.select("user_id"), on="user_id", how="semi"
    )
    if max_samples_per_user is not None:
        targets = _smallest_priorities(targets, max_samples_per_user, seed)
    if not targets.height:
        raise PersonaError(f"no user fell into the {split_name} split: raise its ratio or bring more users")
    return targets


def _smallest_priorities(targets: pl.DataFrame, k: int, seed: int) -> pl.DataFrame:
    priority = id_priority(targets["interaction_id"], seed)
    ordered = targets.with_columns(priority).sort("user_id", "priority", "interaction_id")
    return ordered.filter(pl.int_range(pl.len()).over("user_id") < k).drop("priority")
