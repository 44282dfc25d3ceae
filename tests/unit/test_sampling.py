"""Samples are nested, independent of the order of rows and of the parts they are drawn in."""

from __future__ import annotations

from hashlib import blake2b

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from persona.history import earlier_reviews
from persona.ingestion.ingest import Ingested
from persona.sampling import limit_users, sample_targets
from persona.splitting import split_by_item, split_users
from persona.tables.splits import reviews_in
from persona.tables.user_ranges import user_ranges

# For each of some users the sessions of the user's reviews.
SESSIONS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=8), min_size=1, max_size=30)
SEED = st.integers(0, 2**32 - 1)


def as_reviews(sessions: list[list[int]]) -> pl.DataFrame:
    """Reviews of users whose ids are hashes, in a mixed order."""
    rows = [
        (blake2b(bytes([user]), digest_size=8).hexdigest(), session)
        for user, own in enumerate(sessions)
        for session in own
    ]
    reviews = pl.DataFrame(rows, schema={"user_id": pl.String, "session": pl.Int32}, orient="row")
    return reviews.with_row_index("position").with_columns(
        interaction_id=pl.int_range(pl.len()) * 7919 % 10_007, item_id=pl.lit("film")
    )


def in_train(reviews: pl.DataFrame) -> pl.DataFrame:
    return reviews.select("user_id", split=pl.lit("train")).unique()


def at_least(low: int | None, high: int | None) -> bool:
    """Whether a limit is no lower than another; None is no limit."""
    return high is None or (low is not None and low <= high)


LIMITS = st.lists(st.sampled_from([1, 2, 3, 5, 8, 13, None]), min_size=2, max_size=2).map(
    lambda pair: pair if at_least(*pair) else pair[::-1]
)


@given(SESSIONS, LIMITS, LIMITS, st.integers(0, 4), SEED)
def test_samples_are_nested_over_users_and_over_their_targets(
    sessions: list[list[int]], users: list[int | None], targets: list[int | None], min_history: int, seed: int
) -> None:
    reviews = as_reviews(sessions)
    few, many = (
        sample_targets(reviews, in_train(reviews), "train", most, most_users, seed, min_history)
        for most, most_users in zip(targets, users, strict=True)
    )
    assert set(few["interaction_id"]) <= set(many["interaction_id"])
    # Of a user who is in both, the smaller sample lacks targets only for its own limit.
    both = many.join(few.select("user_id").unique(), on="user_id").group_by("user_id").len("many")
    for _, n_many, n_few in both.join(few.group_by("user_id").len("few"), on="user_id").iter_rows():
        assert n_few == min(n_many, targets[0] or n_many)


@given(SESSIONS, st.integers(1, 30), st.integers(0, 4), SEED)
def test_a_sample_has_as_many_users_as_it_may_of_those_with_enough_history(
    sessions: list[list[int]], max_users: int, min_history: int, seed: int
) -> None:
    reviews = as_reviews(sessions)
    history = earlier_reviews(reviews, reviews).group_by("interaction_id").len("n_history")
    known = reviews.join(history, on="interaction_id", how="left").with_columns(pl.col("n_history").fill_null(0))
    able = known.filter(pl.col("n_history") >= min_history)
    sample = sample_targets(reviews, in_train(reviews), "train", None, max_users, seed, min_history)
    assert set(sample["interaction_id"]) <= set(able["interaction_id"])
    assert sample["user_id"].n_unique() == min(max_users, able["user_id"].n_unique())
    assert sample.height == able.join(sample, on="user_id", how="semi").height


@given(SESSIONS, st.integers(1, 5), st.sampled_from([1, 2, 8]), st.integers(0, 2), st.integers(2, 7), SEED)
def test_a_sample_of_parts_is_the_sample_of_the_whole(
    sessions: list[list[int]], most: int, max_users: int, min_history: int, n_parts: int, seed: int
) -> None:
    reviews = as_reviews(sessions)

    def sample(rows: pl.DataFrame) -> pl.DataFrame:
        return sample_targets(rows, in_train(rows), "train", most, max_users, seed, min_history)

    parts = [
        sample(reviews.filter(pl.col("user_id") >= low, pl.col("user_id") < high)) for low, high in user_ranges(n_parts)
    ]
    joined = limit_users(pl.concat(parts), max_users, seed).sort("interaction_id")
    assert joined.equals(sample(reviews).sort("interaction_id"))


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


def test_by_item_only_texts_that_prompts_may_show_count_as_history(tables: Ingested) -> None:
    split = split_by_item(tables.interactions, 0.2, 0.4, 42)
    train = reviews_in(tables.interactions, split, "train")
    expected = earlier_reviews(train, train)["interaction_id"].unique()
    old = sample_targets(tables.interactions, split, "train", None, None, 42, min_history=1)
    assert set(old["interaction_id"]) == set(expected)
    everything = sample_targets(tables.interactions, split, "train", None, None, 42)
    assert set(everything["interaction_id"]) == set(train["interaction_id"])
    later = earlier_reviews(train, tables.interactions)["interaction_id"].n_unique()
    assert old.height < later, "others have only reviews of hidden items before"


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
