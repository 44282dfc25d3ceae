"""Samples are nested, independent of the order of rows and of the parts they are drawn in."""

from __future__ import annotations

import polars as pl

from persona.ingestion.ingest import Ingested
from persona.sampling import limit_users, sample_targets
from persona.splitting import split_users
from persona.tables.user_ranges import user_ranges


def test_samples_are_nested_and_independent_of_row_order(tables: Ingested) -> None:
    split = split_users(tables.users, 0.1, 0.1, seed=42)
    samples = {
        k: set(sample_targets(tables.interactions, split, "train", k, None, 42)["interaction_id"]) for k in (2, 5, None)
    }
    assert samples[2] < samples[5] < samples[None]
    shuffled = tables.interactions.sample(fraction=1.0, shuffle=True, seed=1)
    assert set(sample_targets(shuffled, split, "train", 2, None, 42)["interaction_id"]) == samples[2]
    per_user = sample_targets(tables.interactions, split, "train", 2, None, 42).group_by("user_id").len()
    assert per_user["len"].max() == 2


def test_cohorts_share_no_user_with_training(tables: Ingested) -> None:
    split = split_users(tables.users, 0.1, 0.1, seed=42)
    users = [
        set(sample_targets(tables.interactions, split, s, 2, None, 42)["user_id"]) for s in ("train", "val", "test")
    ]
    assert not users[0] & users[1] and not users[0] & users[2] and not users[1] & users[2]


def test_a_cohort_of_parts_is_the_cohort_of_the_whole(tables: Ingested) -> None:
    split = split_users(tables.users, 0.1, 0.3, 42)

    def sample(some: tuple[str, str]) -> pl.DataFrame:
        ours = pl.col("user_id").is_between(pl.lit(some[0]), pl.lit(some[1]), closed="left")
        return sample_targets(tables.interactions.filter(ours), split.filter(ours), "test", 2, 20, 42)

    parts = pl.concat([sample(some) for some in user_ranges(5)])
    whole = sample(user_ranges(1)[0])
    assert parts["user_id"].n_unique() > whole["user_id"].n_unique() == 20
    key = ["user_id", "interaction_id"]
    assert limit_users(parts, 20, 42).sort(key).equals(whole.sort(key))
