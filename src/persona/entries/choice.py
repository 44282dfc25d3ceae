"""Chooses some of a user's earlier texts: the most relevant ones, or random ones."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import polars as pl

from persona.entries.settings import HistorySettings
from persona.history import earlier_reviews
from persona.seeded_hash import UInt64Array, mix64

# Parameters of BM25; the usual ones, and those of the package bm25s.
K1, B = 1.5, 0.75
# Scripts without spaces between words.
UNSPACED = r"\u3041-\u30fa\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
RUN = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]+")
DIGITS = 9  # of a score, so that sums in another order are the same score


def chosen_entries(targets: pl.DataFrame, reviews: pl.DataFrame, history: HistorySettings) -> pl.DataFrame:
    """Choose `max_entries` earlier texts of each target's user.

    The k entries that are chosen are among the k + 1 that are chosen with one more.

    Args:
        targets: with `interaction_id`, `user_id`, `item_id`, `session`, `title`, `genres`.
        reviews: all texts of the users, with `interaction_id`, `user_id`, `session`, `position`, `title`, `genres`,
            `text`.
        history: `relevant` or `random` of so many entries.

    Returns:
        `interaction_id`, `history_id`, sorted by target and time.
    """
    pairs = earlier_reviews(targets, reviews.select("interaction_id", "user_id", "session", "position"))
    if history.select == "relevant":
        pairs = pairs.join(bm25(pairs, targets, reviews), on=["interaction_id", "history_id"], how="left")
        order = -pl.col("score").fill_null(0.0)
    else:
        pairs = pairs.with_columns(pl.Series("priority", hash_pairs(pairs, "history_id", history.seed)))
        order = pl.col("priority")
    ordered = pairs.sort(pl.col("interaction_id"), order, pl.col("position"), descending=[False, False, True])
    first = ordered.filter(pl.int_range(pl.len()).over("interaction_id") < history.max_entries)
    return first.sort("interaction_id", "position").select("interaction_id", "history_id")


def hash_pairs(pairs: pl.DataFrame, column: str, seed: int) -> UInt64Array:
    """A pseudo-random number for each pair of a target and another number."""
    return mix64(mix64(pairs["interaction_id"].to_numpy(), seed) ^ pairs[column].to_numpy().astype(np.uint64), 0)


def bm25(pairs: pl.DataFrame, targets: pl.DataFrame, reviews: pl.DataFrame) -> pl.DataFrame:
    """BM25 scores of a user's earlier texts, with the target's title and genres as the query.

    A document is the title, the genres and the text of an entry. The documents of a target are those of its user that
    are earlier. score = sum over the distinct terms of the query of ln(1 + (N - df + 0.5) / (df + 0.5)) x
    tf / (tf + k1 (1 - b + b n / mean n)): the formula of Robertson et al. (TREC-3, 1994) as Lucene computes it
    (Kamphuis et al., ECIR 2020).

    Args:
        pairs: `interaction_id`, `history_id`.

    Returns:
        `interaction_id`, `history_id`, `score`, for pairs with a term in common.
    """
    heads = targets.select("interaction_id", query=_words("title", "genres"))
    query = _counted(heads, "interaction_id", "query").select("interaction_id", "term")
    texts = reviews.join(pairs, left_on="interaction_id", right_on="history_id", how="semi")
    texts = texts.select(history_id="interaction_id", document=_words("title", "genres", "text"))
    counts = _counted(texts, "history_id", "document")
    n_terms = counts.group_by("history_id").agg(n=pl.col("tf").sum())
    sizes = pairs.join(n_terms, on="history_id", how="left").with_columns(pl.col("n").fill_null(0))
    sizes = sizes.with_columns(n_documents=pl.len().over("interaction_id"), mean=pl.mean("n").over("interaction_id"))
    common = counts.join(query, on="term", how="semi")
    found = sizes.join(common, on="history_id").join(query, on=["interaction_id", "term"], how="semi")
    df = pl.len().over("interaction_id", "term")
    weight = (1 + (pl.col("n_documents") - df + 0.5) / (df + 0.5)).log()
    share = pl.col("tf") / (pl.col("tf") + K1 * (1 - B + B * pl.col("n") / pl.col("mean")))
    scores = found.with_columns(score=weight * share).group_by("interaction_id", "history_id")
    return scores.agg(pl.col("score").sum().round(DIGITS))


def _words(*columns: str) -> pl.Expr:
    parts = [pl.col(name).list.join(" ") if name == "genres" else pl.col(name) for name in columns]
    return pl.concat_str(parts, separator=" ", ignore_nulls=True)


def _counted(rows: pl.DataFrame, key: str, column: str) -> pl.DataFrame:
    """How often each term is in each text: `key`, `term`, `tf`."""
    texts = rows.select(text=pl.col(column).unique())
    counts = [Counter(terms(text)) for text in texts["text"]]
    schema = {"term": pl.List(pl.String), "tf": pl.List(pl.Int64)}
    lists = pl.DataFrame({"term": [list(c) for c in counts], "tf": [list(c.values()) for c in counts]}, schema=schema)
    known = texts.hstack(lists).explode("term", "tf").drop_nulls("term")
    return rows.select(key, text=column).join(known, on="text").drop("text")


def terms(text: str) -> list[str]:
    """The words of a text in lower case; of scripts without spaces the pairs of neighbouring characters."""
    found: list[str] = []
    for run in RUN.findall(text.lower()):
        is_unspaced = re.match(rf"[{UNSPACED}]", run) and len(run) > 1
        found += [run[n : n + 2] for n in range(len(run) - 1)] if is_unspaced else [run]
    return found
