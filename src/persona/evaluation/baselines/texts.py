"""Baselines for texts and for author identification without a language model."""

from __future__ import annotations

import bm25s
import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer

from persona.tables import schemas
from persona.tables.parquet import empty_table

AUTHOR_TEXTS = 100_000


def text_baselines(train: pl.DataFrame, targets: pl.DataFrame, histories: dict[int, list[str]]) -> pl.DataFrame:
    """One text per target and method: `interaction_id`, `method`, `text`. A method may have no text for a target.

    - `commonest`: the most frequent training text.
    - `same_item_and_star`: a training user's text on the same item with the target's star, which it is given.
    - `last_review`: the user's own last text, on another item.
    - `bm25_neighbour`: the training text on the same item that is most similar to the user's earlier texts.

    Args:
        train: the training reviews in random order.
        targets: `schemas.TARGETS` of the test cohort.
        histories: texts of the earlier reviews by target, oldest first.
    """
    commonest = str(train["text"].value_counts().sort("count", "text", descending=[True, False])["text"][0])
    same = train.unique(["item_id", "rating"], keep="first", maintain_order=True)
    rows: list[tuple[int, str, str | None]] = []
    for target in targets["interaction_id"]:
        rows.append((target, "commonest", commonest))
        rows.append((target, "last_review", histories[target][-1] if histories.get(target) else None))
    matches = targets.join(same.select("item_id", "rating", other="text"), on=["item_id", "rating"], how="inner")
    rows += [
        (target, "same_item_and_star", text) for target, text in matches.select("interaction_id", "other").iter_rows()
    ]
    for (item,), wanted in targets.group_by(["item_id"], maintain_order=True):
        documents = train.filter(pl.col("item_id") == item)["text"].to_list()
        asked = [target for target in wanted["interaction_id"] if histories.get(target)]
        if documents and asked:
            best = _nearest(documents, ["".join(histories[target]) for target in asked])
            rows += [(target, "bm25_neighbour", documents[n]) for target, n in zip(asked, best, strict=True)]
    schema = {"interaction_id": pl.Int64, "method": pl.String, "text": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").drop_nulls("text")


def _nearest(documents: list[str], queries: list[str]) -> list[int]:
    """For each query, the index of the document with the highest BM25 score over characters and character pairs."""
    retriever = bm25s.BM25()
    retriever.index([_grams(document) for document in documents], show_progress=False)
    return [int(np.argmax(retriever.get_scores(_grams(query)))) for query in queries]


def _grams(text: str) -> list[str]:
    return [*text, *(text[n : n + 2] for n in range(len(text) - 1))]


def author_similarities(train_texts: list[str], targets: pl.DataFrame, histories: dict[int, list[str]]) -> pl.DataFrame:
    """Cosine similarity of character 1-3-gram TF-IDF between each review and each candidate's earlier reviews.

    It is 0 in a block of users without earlier reviews. Conversations are not read: all candidates have the same one.

    Returns:
        The columns of `schemas.AUTHORS`. `nll` and `nll_impostors` are the negated similarities, so that the
        functions that rank likelihoods also rank similarities.
    """
    rare = min(2, 1 + len(train_texts) // 20)
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=(1, 3), min_df=rare, max_features=100_000, sublinear_tf=True
    )
    vectorizer.fit(train_texts[:AUTHOR_TEXTS])
    blocked = targets.drop_nulls("block").sort("interaction_id")
    if not blocked.height:
        return empty_table(schemas.AUTHORS)
    ids = blocked["interaction_id"].to_list()
    reviews = vectorizer.transform(blocked["text"].to_list())
    pasts = vectorizer.transform(["\n".join(histories.get(target, [])) for target in ids])
    index = {target: n for n, target in enumerate(ids)}
    rows = []
    for (_,), block in blocked.group_by(["block"], maintain_order=True):
        members = block["interaction_id"].to_list()
        numbers = [index[member] for member in members]
        similarity = (reviews[numbers] @ pasts[numbers].T).toarray()
        keys = block.select("interaction_id", "user_id", "cohort", "n_history")
        for n, key in enumerate(keys.iter_rows(named=True)):
            others = [m for m in range(len(members)) if m != n]
            rows.append(
                {
                    **key,
                    "impostor_ids": [members[m] for m in others],
                    "nll": -float(similarity[n, n]),
                    "nll_impostors": [-float(similarity[n, m]) for m in others],
                }
            )
    return pl.DataFrame(rows, schema=schemas.AUTHORS.columns)
