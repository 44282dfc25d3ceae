"""The targets of the evaluation and their impostors. They are computed once and are the same for all models.

Test targets are grouped in blocks: reviews of one item by different users, similar in star, length of history and
day. Within a block every review is scored under every prompt, so the users of a block are each other's impostors,
and the scores form a full matrix that can be centred by review and by prompt.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from persona.audit.star_names import NAMES_STAR
from persona.history import earlier_reviews
from persona.seeded_hash import hash64_series, id_priority, mix64
from persona.tables.splits import shown_reviews


def build_targets(
    cohorts: dict[str, pl.DataFrame], interactions: pl.DataFrame, candidates: int, seed: int
) -> pl.DataFrame:
    """The targets of the cohorts `val` and `test`, with the columns that the evaluation needs.

    Args:
        cohorts: sampled targets by cohort.
        interactions: `schemas.INTERACTIONS`.
        candidates: number of users among whom an author is identified. A block has at least as many targets if the
            item has as many.
        seed: of the random choices, such as the order within equal stars.

    Returns:
        The columns of `schemas.TARGETS`.
    """
    sampled = pl.concat([c.with_columns(cohort=pl.lit(name)) for name, c in cohorts.items()])
    reviews = interactions.drop("likes", "context")
    known = sampled.select("interaction_id", "cohort").join(reviews, on="interaction_id").sort("interaction_id")
    past = (
        earlier_reviews(known, reviews)
        .group_by("interaction_id")
        .agg(n_history=pl.len().cast(pl.Int32), history_mean=pl.col("rating").cast(pl.Float64).mean())
    )
    known = known.join(past, on="interaction_id", how="left").with_columns(
        pl.col("n_history").fill_null(0), names_star=pl.col("text").str.contains(NAMES_STAR)
    )
    blocks = _blocks(known.filter(pl.col("cohort") == "test"), candidates, seed)
    known = known.join(blocks, on="interaction_id", how="left")
    return known.join(_floors(known, reviews, seed), on="interaction_id", how="left").join(
        _ceilings(known, reviews, seed), on="interaction_id", how="left"
    )


def past_of_cohorts(targets: pl.DataFrame, reviews: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    """Pair the val and test targets with those earlier reviews that their prompts may show.

    Args:
        targets: with `interaction_id`, `user_id`, `session`, `cohort`.
        reviews, split: as in `persona.tables.splits.shown_reviews`.

    Returns:
        As `earlier_reviews`.
    """
    pairs = [
        earlier_reviews(cohort, shown_reviews(reviews, split, str(name)))
        for (name,), cohort in targets.group_by("cohort", maintain_order=True)
    ]
    return pl.concat(pairs).sort("interaction_id", "position")


def _blocks(test: pl.DataFrame, candidates: int, seed: int) -> pl.DataFrame:
    """Sort the targets of each item by star, length of history and day, and cut them into blocks of almost equal size.

    Returns:
        `interaction_id` and `block`.
    """
    # One target per user and item; accounts that share a display name may have more.
    once = test.sort("interaction_id").unique(["item_id", "user_id"], keep="first", maintain_order=True)
    ordered = once.with_columns(
        # 0, 1, 2-3, 4-7, ...
        size=(pl.col("n_history") + 1).log(2).floor(),
        tie=_priority(once, "block", seed),
    ).sort("item_id", "rating", "size", "day", "tie")
    blocks, number = [], 0
    for item in ordered.partition_by("item_id", maintain_order=True):
        parts = np.array_split(np.arange(item.height), max(1, item.height // candidates))
        blocks.append(np.concatenate([np.full(len(part), number + n) for n, part in enumerate(parts)]))
        number += len(parts)
    return ordered.select("interaction_id").with_columns(
        block=pl.Series(np.concatenate(blocks) if blocks else [], dtype=pl.Int32)
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
    other = reviews.select("user_id", other_id="interaction_id", ceiling_text="text").with_columns(
        tie=_priority(reviews, "ceiling", seed)
    )
    return (
        known.select("interaction_id", "user_id")
        .join(other, on="user_id")
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
