"""All baselines of a data set, on the same targets as the models."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from persona.evaluation.baselines.ngram import ngram_scores
from persona.evaluation.baselines.ratings import rating_baselines
from persona.evaluation.baselines.texts import author_similarities, text_baselines
from persona.evaluation.metrics.authors import author_ranks
from persona.evaluation.targets import past_of_cohorts
from persona.seeded_hash import id_priority
from persona.tables import schemas
from persona.tables.splits import reviews_in


@dataclass(frozen=True)
class Baselines:
    """Tables of the schemas `RATINGS`, `GENERATIONS`, `AUTHORS` and `SCORES`."""

    ratings: pl.DataFrame
    texts: pl.DataFrame
    authors: pl.DataFrame
    ngram: pl.DataFrame


def all_baselines(interactions: pl.DataFrame, split: pl.DataFrame, targets: pl.DataFrame, seed: int) -> Baselines:
    """Fit every baseline on the training reviews, tune it on val, and apply it to the targets.

    A review of val or test is seen only in the history of its own user's targets.

    Args:
        interactions, targets: `schemas.INTERACTIONS` and `TARGETS`.
        split: `schemas.SPLIT` or `SPLIT_OF_REVIEWS`.
        seed: of the random order of the training texts.
    """
    reviews = interactions.drop("likes", "context")
    train = reviews_in(reviews, split, "train")
    train = train.with_columns(id_priority(train["interaction_id"], seed)).sort("priority", "interaction_id")
    texts = train["text"].to_list()
    histories = _histories(targets, reviews, split)
    test = targets.filter(pl.col("cohort") == "test")
    keys = targets.select("interaction_id", "user_id", "item_id")
    written = text_baselines(train, test, histories).join(keys, on="interaction_id")
    return Baselines(
        ratings=rating_baselines(reviews, split, targets) if train["rating"].count() else _no_ratings(),
        texts=written.with_columns(
            draw=pl.lit(0),
            written_rating=pl.lit(None, dtype=pl.Float64),
            stop_reason=pl.lit(None, dtype=pl.String),
            written_by=pl.lit(None, dtype=pl.String),
        ),
        authors=author_similarities(texts, targets, histories),
        # Its tokens are the characters and the end of the text.
        ngram=ngram_scores(texts, targets, histories).with_columns(
            n_tokens=pl.col("n_characters") + 1,
            stars=pl.lit(None, dtype=pl.List(pl.Float64)),
            stars_trained=pl.lit(False),
        ),
    )


def best_author_baseline(authors: pl.DataFrame, ngram: pl.DataFrame, candidates: int) -> tuple[str, pl.DataFrame]:
    """The baseline of author identification that a model must beat, chosen on val and not on test.

    It is the one of higher acc@1 on the val targets with history; the n-gram model if both are equal or val has no
    target with enough impostors.

    Args:
        authors: `schemas.AUTHORS`.
        ngram: `schemas.SCORES` of the n-gram model.
        candidates: number of users among whom an author is identified.

    Returns:
        `tfidf_authors` or `ngram`, as in the metrics of the baselines, and its rows of the test targets, for
        `author_ranks`.
    """
    chosen_on = authors.filter(pl.col("cohort") == "val", pl.col("n_history") > 0).select("interaction_id")

    def acc(table: pl.DataFrame) -> float:
        ranks = author_ranks(table.join(chosen_on, on="interaction_id", how="semi"), candidates)
        return float(ranks["acc"].to_numpy().mean()) if ranks.height else 0.0

    name, table = ("tfidf_authors", authors) if acc(authors) > acc(ngram) else ("ngram", ngram)
    return name, table.filter(pl.col("cohort") == "test")


def _no_ratings() -> pl.DataFrame:
    return pl.DataFrame(schema=schemas.RATINGS.columns)


def _histories(targets: pl.DataFrame, reviews: pl.DataFrame, split: pl.DataFrame) -> dict[int, list[str]]:
    """Texts of the earlier reviews of each target that has any, oldest first."""
    sessions = reviews.select("interaction_id", "session")
    known = targets.select("interaction_id", "user_id", "cohort").join(sessions, on="interaction_id")
    past = past_of_cohorts(known, reviews, split).group_by("interaction_id", maintain_order=True).agg("text")
    return dict(past.iter_rows())
