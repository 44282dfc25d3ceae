"""The targets of the evaluation and their impostors. They are computed once and are the same for all models.

Targets are grouped in blocks: reviews of one item by different users, all with history or all without, similar in
length of history, star and day. Within a block every review is scored under every user, so the users of a block are
each other's impostors, and the scores form a full matrix that can be centred by review and by user.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from persona.audit.star_names import NAMES_STAR
from persona.history import earlier_reviews, earlier_rows
from persona.seeded_hash import hash64_series, id_priority, mix64
from persona.tables.splits import shown_reviews

# About what a language model of usual length reads. Without a limit time and memory grow with the square of the texts.
READ_BY_BASELINES = 200


def build_targets(
    cohorts: dict[str, pl.DataFrame],
    interactions: pl.DataFrame,
    candidates: int,
    seed: int,
    split: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The targets of the cohorts `val` and `test`, with the columns that the evaluation needs.

    Args:
        cohorts: sampled targets by cohort.
        interactions: `schemas.INTERACTIONS`.
        candidates: number of users among whom an author is identified. A block has at least as many targets if there
            are as many to choose from.
        seed: of the random choices, such as the order within equal stars.
        split: as in `persona.tables.splits.shown_reviews`; by default prompts may show all earlier reviews.

    Returns:
        The columns of `schemas.TARGETS`.
    """
    sampled = pl.concat([c.with_columns(cohort=pl.lit(name)) for name, c in cohorts.items()])
    reviews = interactions.with_columns(n_context=pl.col("context").list.len()).drop("likes", "context")
    known = sampled.select("interaction_id", "cohort").join(reviews, on="interaction_id").sort("interaction_id")
    by_cohort = known.group_by("cohort", maintain_order=True)
    past = [_past(cohort, reviews, split, str(name)) for (name,), cohort in by_cohort]
    known = known.join(pl.concat(past), on="interaction_id", how="left", maintain_order="left").with_columns(
        names_star=pl.col("text").str.contains(NAMES_STAR)
    )
    known = known.join(_blocks(known, candidates, seed), on="interaction_id", how="left")
    return known.join(_floors(known, reviews, seed), on="interaction_id", how="left").join(
        _ceilings(known, reviews, seed), on="interaction_id", how="left"
    )


def _past(cohort: pl.DataFrame, reviews: pl.DataFrame, split: pl.DataFrame | None, name: str) -> pl.DataFrame:
    """For each target of a cohort, how many earlier reviews its prompt may show, and the mean of their ratings."""
    shown = reviews if split is None else shown_reviews(reviews, split, name)
    shown = shown.sort("user_id", "position")
    first, end = earlier_rows(cohort, shown)
    ratings = shown["rating"].cast(pl.Float64)
    rated, total = (
        np.concatenate([[0], np.cumsum(values.to_numpy())])
        for values in (ratings.is_not_null().cast(pl.Int64), ratings.fill_null(0.0))
    )
    n_rated = rated[end] - rated[first]
    mean = pl.Series(total[end] - total[first]) / pl.Series(n_rated)
    return cohort.select(
        "interaction_id",
        n_history=pl.Series(end - first, dtype=pl.Int32),
        history_mean=pl.when(pl.Series(n_rated) > 0).then(mean),
    )


def past_of_cohorts(targets: pl.DataFrame, reviews: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    """Pair the val and test targets with the last `READ_BY_BASELINES` earlier reviews that their prompts may show.

    Args:
        targets: with `interaction_id`, `user_id`, `session`, `cohort`.
        reviews, split: as in `persona.tables.splits.shown_reviews`.

    Returns:
        As `earlier_reviews`.
    """
    pairs = [
        earlier_reviews(cohort, shown_reviews(reviews, split, str(name)), READ_BY_BASELINES)
        for (name,), cohort in targets.group_by("cohort", maintain_order=True)
    ]
    return pl.concat(pairs).sort("interaction_id", "position")


def _blocks(known: pl.DataFrame, candidates: int, seed: int) -> pl.DataFrame:
    """Cut the targets that may stand in for each other into blocks of almost equal size, like with like.

    These are the targets of one cohort and item, with history or without. A user is in a block once, so a user's
    second target of an item is among the second ones of others. One that is alone has no block.

    Returns:
        `interaction_id` and `block`.
    """
    group = ["cohort", "item_id", "has_history", "turn"]
    ordered = (
        known.with_columns(
            has_history=pl.col("n_history") > 0,
            # 0, 1, 2-3, 4-7, ...
            size=(pl.col("n_history") + 1).log(2).floor(),
            tie=_priority(known, "block", seed),
        )
        .with_columns(turn=pl.col("tie").rank("ordinal").over("cohort", "item_id", "has_history", "user_id"))
        .filter(pl.len().over(group) > 1)
        # The length of the history comes first: it makes all texts more or less likely, whoever wrote them.
        .sort(*group, "size", "rating", "day", "tie")
    )
    n_blocks = (pl.len() // candidates).clip(1)
    part = pl.int_range(pl.len()) * n_blocks // pl.len()
    numbered = ordered.with_columns(part=part.over(group))
    return numbered.select("interaction_id", block=pl.struct(*group, "part").rle_id().cast(pl.Int32))


def impostor_pairs(targets: pl.DataFrame) -> pl.DataFrame:
    """The pairs of a test target and an impostor whose prompt differs from the impostor's own: by the conversation.

    The impostor's own prompt serves where neither has one.

    Args:
        targets: `schemas.TARGETS`.

    Returns:
        `interaction_id` of the target, `user_id` of the impostor and `impostor_id`, the impostor's target.
    """
    test = targets.filter(pl.col("cohort") == "test").drop_nulls("block")
    others = test.select("block", "user_id", impostor_id="interaction_id", n_others="n_context")
    return (
        test.select("block", "interaction_id", "n_context")
        .join(others, on="block")
        .filter(pl.col("interaction_id") != pl.col("impostor_id"), pl.max_horizontal("n_context", "n_others") > 0)
        .select("interaction_id", "user_id", "impostor_id")
    )


def count_blocks(targets: pl.DataFrame, candidates: int) -> pl.DataFrame:
    """How many targets have impostors, and enough of them to identify their author.

    Args:
        targets: `schemas.TARGETS`.

    Returns:
        `targets`, `with_impostors`, `with_candidates` for each `cohort`, with and without history (`has_history`).
    """
    size = pl.when(pl.col("block").is_not_null()).then(pl.len().over("block")).otherwise(0)
    return (
        targets.with_columns(size=size, has_history=pl.col("n_history") > 0)
        .group_by("cohort", "has_history")
        .agg(
            targets=pl.len(),
            with_impostors=(pl.col("size") > 1).sum(),
            with_candidates=(pl.col("size") >= candidates).sum(),
        )
        .sort("cohort", "has_history")
    )


def too_few_candidates(targets: pl.DataFrame, candidates: int) -> str | None:
    """What to do where fewer than half of the test targets have enough users to identify their author among; or None.

    Args:
        targets: `schemas.TARGETS`.
    """
    test = count_blocks(targets, candidates).filter(pl.col("cohort") == "test")
    all_targets, enough = test["targets"].sum(), test["with_candidates"].sum()
    if 2 * enough >= all_targets:
        return None
    return (
        f"only {enough:,} of {all_targets:,} test targets have texts of {candidates} test users on the same item (with "
        "history or without, as they have), so authors are identified for these alone; take more test users, lower "
        "evaluation.candidates, or use split.by: item"
    )


def _floors(known: pl.DataFrame, reviews: pl.DataFrame, seed: int) -> pl.DataFrame:
    """A random review of the same item by another user, with the same star if there is one."""
    ordered = reviews.with_columns(tie=_priority(reviews, "floor", seed)).sort("item_id", "rating", "tie")
    # The next in the order of (star, chance), or the one before at the end of the item.
    neighbours = ordered.select(
        "interaction_id",
        "item_id",
        "user_id",
        *[
            pl.col(column).shift(by).over("item_id").alias(f"{column}_{by}")
            for column in ("text", "user_id", "rating")
            for by in (-1, 1)
        ],
        own="rating",
    )

    def usable(by: int) -> pl.Expr:
        return pl.col(f"user_id_{by}").is_not_null() & (pl.col(f"user_id_{by}") != pl.col("user_id"))

    def same(by: int) -> pl.Expr:
        return usable(by) & (pl.col(f"rating_{by}") == pl.col("own"))

    chosen = (
        pl.when(same(-1))
        .then("text_-1")
        .when(same(1))
        .then("text_1")
        .when(usable(-1))
        .then("text_-1")
        .when(usable(1))
        .then("text_1")
    )
    return known.select("interaction_id").join(
        neighbours.select("interaction_id", floor_text=chosen), on="interaction_id", how="left"
    )


def _ceilings(known: pl.DataFrame, reviews: pl.DataFrame, seed: int) -> pl.DataFrame:
    """A random other review of the same user, earlier or later: it only shows how similar a user's reviews are."""
    ordered = reviews.select("user_id", other_id="interaction_id", ceiling_text="text").with_columns(
        tie=_priority(reviews, "ceiling", seed)
    )
    # The first that is not the target is one of the first two.
    first = ordered.sort("tie").group_by("user_id", maintain_order=True).head(2)
    return (
        known.select("interaction_id", "user_id")
        .join(first, on="user_id")
        .filter(pl.col("other_id") != pl.col("interaction_id"))
        .sort("interaction_id", "tie")
        .unique("interaction_id", keep="first", maintain_order=True)
        .select("interaction_id", "ceiling_text")
    )


def _priority(table: pl.DataFrame, purpose: str, seed: int) -> pl.Series:
    """A pseudo-random number per row that depends only on the interaction, the purpose and the seed."""
    purpose_seed = seed + int(hash64_series(pl.Series([purpose]))[0] % 2**20)
    return id_priority(table["interaction_id"], purpose_seed)


def choose_targets(targets: pl.DataFrame, n_targets: int, seed: int) -> pl.DataFrame:
    """Choose the targets for which texts are written: those of smallest priority, the same for every model.

    Args:
        targets: with `interaction_id`, and any other columns.
    """
    # Another hash than that of sampling, which prefers targets of users with many.
    keys = hash64_series("generation " + targets["interaction_id"].cast(pl.String))
    priority = mix64(keys, seed)
    return targets.with_columns(priority=pl.Series(priority)).sort("priority").head(n_targets).drop("priority")
