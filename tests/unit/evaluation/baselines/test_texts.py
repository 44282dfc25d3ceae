"""Baselines of texts and authors: what they use and what they do not use."""

from __future__ import annotations

import numpy as np
import polars as pl

from persona.evaluation.baselines.baselines import Baselines
from persona.evaluation.baselines.texts import author_similarities
from persona.evaluation.metrics.authors import author_ranks


def test_text_baselines_are_what_their_names_say(own: tuple[pl.DataFrame, pl.DataFrame, Baselines]) -> None:
    interactions, targets, baselines = own
    texts = {
        m: dict(r.select("interaction_id", "text").iter_rows()) for (m,), r in baselines.texts.group_by(["method"])
    }
    assert len(set(texts["commonest"].values())) == 1
    by_film = {(film, star): set(rows["text"]) for (film, star), rows in interactions.group_by(["item_id", "rating"])}
    rows = targets.filter(pl.col("cohort") == "test")
    for row in rows.iter_rows(named=True):
        if row["interaction_id"] in texts["same_item_and_star"]:
            chosen = texts["same_item_and_star"][row["interaction_id"]]
            assert chosen in by_film[row["item_id"], row["rating"]]
    assert set(texts["last_review"]) == set(rows.filter(pl.col("n_history") > 0)["interaction_id"])


def test_baselines_do_not_depend_on_val_and_test_users_of_the_future(
    own: tuple[pl.DataFrame, pl.DataFrame, Baselines],
) -> None:
    """Every target's own text and star may be changed without changing what is guessed for it."""
    interactions, targets, baselines = own
    assert set(baselines.authors["interaction_id"]) == set(targets.drop_nulls("block")["interaction_id"])
    last = baselines.texts.filter(pl.col("method") == "last_review").join(
        targets.select("interaction_id", own="text"), on="interaction_id"
    )
    texts = interactions.select("interaction_id", "user_id", "day", "text")
    days = last.join(texts.select("interaction_id", target_day="day"), on="interaction_id").join(
        texts.select("user_id", "text", "day"), on=["user_id", "text"]
    )
    earliest = days.group_by("interaction_id").agg(pl.col("day").min(), pl.col("target_day").first())
    assert (earliest["day"] < earliest["target_day"]).all()


def test_a_user_without_history_is_found_by_chance(own: tuple[pl.DataFrame, pl.DataFrame, Baselines]) -> None:
    authors = own[2].authors
    ranks = author_ranks(authors, 10).join(authors.select("interaction_id", "n_history"), on="interaction_id")
    np.testing.assert_allclose(ranks.filter(pl.col("n_history") == 0)["acc"], 0.1)
    assert ranks.filter(pl.col("n_history") > 0)["acc"].mean() > 0.5  # type: ignore[operator]


def test_without_blocks_there_are_no_similarities(own: tuple[pl.DataFrame, pl.DataFrame, Baselines]) -> None:
    alone = own[1].head(2).with_columns(block=pl.lit(None, dtype=pl.Int32))
    assert author_similarities(["one text", "another"], alone, {}).is_empty()
