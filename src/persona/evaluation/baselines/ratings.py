"""Predict stars without a language model: means, biases, matrix factorisation, TF-IDF of the history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from persona.evaluation.metrics.intervals import Floats
from persona.evaluation.targets import READ_BY_BASELINES, past_of_cohorts
from persona.history import earlier_reviews, n_earlier
from persona.seeded_hash import id_priority
from persona.tables.splits import reviews_in

DAMPING = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
RANKS = (2, 4, 8)
PENALTIES = (1.0, 3.0, 10.0, 30.0)
ALS_ROUNDS = 10
RIDGE_ALPHAS = (1.0, 10.0, 100.0)
RIDGE_TARGETS, RIDGE_TEXTS = 50_000, 2_000_000
SEED = 0


@dataclass(frozen=True)
class RatingData:
    """Ratings of the training reviews, the val and test targets, and the ratings in the history of each target."""

    train: pl.DataFrame
    targets: pl.DataFrame
    history: pl.DataFrame
    items: pl.DataFrame

    @classmethod
    def build(cls, interactions: pl.DataFrame, split: pl.DataFrame, targets: pl.DataFrame) -> RatingData:
        """Select the ratings from the tables of the workflow."""
        rated = interactions.drop_nulls("rating").with_columns(pl.col("rating").cast(pl.Float64))
        train = reviews_in(rated, split, "train")
        sessions = interactions.select("interaction_id", "session")
        known = targets.sort("user_id", "interaction_id").join(
            sessions, on="interaction_id", how="left", maintain_order="left"
        )
        items = interactions.select(pl.col("item_id").unique().sort()).with_row_index("item")
        history = past_of_cohorts(known, rated, split).join(items, on="item_id")
        index = known.select("interaction_id").with_row_index("target")
        return cls(
            train.join(items, on="item_id").sort("user_id", "position"),
            known.join(items, on="item_id", maintain_order="left").with_row_index("target"),
            history.join(index, on="interaction_id").sort("target", "position"),
            items,
        )


def rating_baselines(interactions: pl.DataFrame, split: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """Stars of all val and test targets as predicted by each method, in the columns of `schemas.RATINGS`.

    A method with settings uses those with the smallest RMSE on val. No guess is beyond the ratings of the training
    users, of which there must be one.
    """
    data = RatingData.build(interactions, split, targets)
    ratings = data.train["rating"].to_numpy()
    mean = float(ratings.mean())
    biases = item_biases(data, mean)
    candidates: dict[str, list[Floats]] = {
        "global_mean": [np.full(data.targets.height, mean)],
        "item_mean": [mean + biases[data.targets["item"].to_numpy()]],
        "damped_bias": [damped_bias(data, mean, biases, damping) for damping in DAMPING],
        "matrix_factorisation": [factorise(data, mean, rank, penalty) for rank in RANKS for penalty in PENALTIES],
        "tfidf_ridge": tfidf_ridge(data, mean, biases),
    }
    val = (data.targets["cohort"] == "val").to_numpy()
    truth = data.targets["rating"].cast(pl.Float64).to_numpy()
    tables = []
    for method, guesses in candidates.items():
        errors = [float(np.nanmean((guess[val] - truth[val]) ** 2)) for guess in guesses]
        best = guesses[int(np.argmin(errors))]
        tables.append(
            data.targets.select("interaction_id", "user_id", "item_id").with_columns(
                method=pl.lit(method), rating=pl.Series(best.clip(ratings.min(), ratings.max()))
            )
        )
    return pl.concat(tables)


def item_biases(data: RatingData, mean: float) -> Floats:
    """Mean rating of each item minus the global mean, `[items]`; 0 for an item without ratings."""
    items = data.train["item"].to_numpy()
    total = np.bincount(items, data.train["rating"].to_numpy() - mean, minlength=data.items.height)
    return np.asarray(total / np.maximum(np.bincount(items, minlength=data.items.height), 1))


def damped_bias(data: RatingData, mean: float, biases: Floats, damping: float) -> Floats:
    """mu + b_i + sum over the history of (r - mu - b_i) / (n_u + lambda) (Koren, ACM TKDD 2010, section 2.1)."""
    residual = data.history["rating"].to_numpy() - mean - biases[data.history["item"].to_numpy()]
    owner = data.history["target"].to_numpy()
    total = np.bincount(owner, residual, minlength=data.targets.height)
    count = np.bincount(owner, minlength=data.targets.height)
    return np.asarray(mean + biases[data.targets["item"].to_numpy()] + total / (count + damping))


def factorise(data: RatingData, mean: float, rank: int, penalty: float) -> Floats:
    """Matrix factorisation r = mu + q_i . p_u by alternating least squares (Koren, Bell, Volinsky, Computer 2009).

    The first element of q_i and the last of p_u are 1, so the first of p_u is the user's bias and the last of q_i
    is the item's bias. The users of the targets are not fitted: their p_u is the ridge solution on their history.
    """
    users = data.train["user_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    items = data.train["item"].to_numpy().astype(np.int64)
    residual = data.train["rating"].to_numpy() - mean
    shape = (int(users.max()) + 1, data.items.height)
    seen = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape=shape)
    rated = sparse.csr_matrix((residual, (users, items)), shape=shape)
    rng = np.random.default_rng(SEED)
    q = rng.normal(0, 0.1, (shape[1], rank))
    q[:, 0] = 1.0
    for _ in range(ALS_ROUNDS):
        p = _user_factors(seen, rated, q, penalty)
        # Solve for the items: subtract the user's bias (the first of p); the last of p is 1.
        q = _solve(seen.T.tocsr(), rated.T.tocsr(), p[:, 1:], p[:, 0], penalty)
        q = np.column_stack([np.ones(len(q)), q])
    owner, item = data.history["target"].to_numpy(), data.history["item"].to_numpy()
    shape = (data.targets.height, shape[1])
    seen = sparse.csr_matrix((np.ones(len(owner)), (owner, item)), shape=shape)
    rated = sparse.csr_matrix((data.history["rating"].to_numpy() - mean, (owner, item)), shape=shape)
    p = _user_factors(seen, rated, q, penalty)
    return np.asarray(mean + (p * q[data.targets["item"].to_numpy()]).sum(1))


def _user_factors(seen: sparse.csr_matrix, rated: sparse.csr_matrix, q: Floats, penalty: float) -> Floats:
    """Solve for the users with fixed items: subtract the item's bias (the last of q)."""
    p = _solve(seen, rated, q[:, :-1], q[:, -1], penalty)
    return np.column_stack([p, np.ones(len(p))])


def _solve(seen: sparse.csr_matrix, rated: sparse.csr_matrix, factors: Floats, known: Floats, penalty: float) -> Floats:
    """Ridge solutions of all rows: (sum of f f^T + penalty I) x = sum of (r - known) f."""
    rank = factors.shape[1]
    outer = (factors[:, :, None] * factors[:, None, :]).reshape(len(factors), -1)
    left = (seen @ outer).reshape(-1, rank, rank) + penalty * np.eye(rank)
    right = rated @ factors - seen @ (factors * known[:, None])
    return np.asarray(np.linalg.solve(left, right[:, :, None])[:, :, 0])


def tfidf_ridge(data: RatingData, mean: float, biases: Floats) -> list[Floats]:
    """Ridge regression of (star - item mean) on character TF-IDF of the history, one prediction per penalty."""
    # No more than so many texts of histories are in memory.
    read = data.train.select(pl.min_horizontal(n_earlier(), pl.lit(READ_BY_BASELINES)).cast(pl.Int64)).to_series()
    drawn = data.train.with_columns(read=read).sort(id_priority(data.train["interaction_id"], SEED))
    subset = drawn.filter(pl.col("read").cum_sum() <= RIDGE_TEXTS).drop("read").head(RIDGE_TARGETS)
    # The history of a training review is of the training split as well.
    documents = _joined_texts(earlier_reviews(subset, data.train, READ_BY_BASELINES))
    if not documents.height:
        return [mean + biases[data.targets["item"].to_numpy()]]
    # With few documents, do not drop n-grams for being rare.
    rare = min(3, 1 + documents.height // 20)
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=(1, 2), min_df=rare, max_features=50_000, sublinear_tf=True
    )
    x = vectorizer.fit_transform(documents["text"].to_list())
    y = documents.join(
        data.train.select("interaction_id", "item", "rating"), on="interaction_id", maintain_order="left"
    )
    residual = y["rating"].to_numpy() - mean - biases[y["item"].to_numpy()]
    history = _joined_texts(data.history)
    texts = data.targets.select("interaction_id").join(history, on="interaction_id", how="left", maintain_order="left")
    unknown = texts["text"].is_null().to_numpy()
    features = vectorizer.transform(texts["text"].fill_null("").to_list())
    base = mean + biases[data.targets["item"].to_numpy()]
    models = [Ridge(alpha=alpha, solver="sparse_cg").fit(x, residual) for alpha in RIDGE_ALPHAS]
    return [np.where(unknown, base, base + model.predict(features)) for model in models]


def _joined_texts(past: pl.DataFrame) -> pl.DataFrame:
    """`interaction_id` and the joined `text` of its history, for targets with a history."""
    return past.group_by("interaction_id", maintain_order=True).agg(pl.col("text").str.join("\n"))
