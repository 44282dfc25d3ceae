"""A character n-gram model with a cache of the user's history: the likelihood that counting alone achieves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from persona.evaluation.metrics.intervals import Floats, Ints

ORDER = 5
END, BEGIN = 0, 1  # characters that mark the end and the beginning of a text; they are replaced inside texts
# Assigned characters of Unicode 16, the base of the uniform distribution.
ALPHABET = 155_063
CACHE_WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
CACHE_ORDERS = (1, 2, 3)
MAX_TEXTS = 200_000

UInt64s = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Counts:
    """The n-grams of one order and their contexts: sorted hashes, and how often each occurs."""

    grams: UInt64s
    gram_counts: Ints
    contexts: UInt64s
    context_counts: Ints
    followers: Ints  # number of distinct characters that follow each context


class NgramModel:
    """An n-gram model with interpolated Witten-Bell smoothing.

    After Bell, Cleary and Witten, Text Compression, 1990; see Chen and Goodman 1999, section 2.6.

    p_n(c | h) = (count(hc) + followers(h) p_{n-1}(c | h')) / (count(h) + followers(h)), down to a uniform
    distribution over the characters of Unicode.
    """

    def __init__(self, texts: list[str]) -> None:
        characters, inside = _sequence(texts)
        self.orders = [_count(characters, inside, order) for order in range(1, ORDER + 1)]

    def log_probabilities(self, texts: list[str]) -> list[Floats]:
        """For each text, the natural log-probabilities of its characters and of its end: `[characters + 1]`."""
        characters, inside = _sequence(texts)
        p = np.full(int(inside.sum()), 1 / ALPHABET)
        for order, counts in enumerate(self.orders, start=1):
            grams, contexts = _grams(characters, inside, order)
            count = _look_up(counts.grams, counts.gram_counts, grams)
            seen = _look_up(counts.contexts, counts.context_counts, contexts)
            followers = _look_up(counts.contexts, counts.followers, contexts)
            known = seen > 0
            p[known] = (count[known] + followers[known] * p[known]) / (seen[known] + followers[known])
        return np.split(np.log(p), np.cumsum([len(text) + 1 for text in texts])[:-1])


def _sequence(texts: list[str]) -> tuple[UInt64s, npt.NDArray[np.bool_]]:
    """The characters of all texts, each with begin and end marks, and a mask of the characters to predict."""
    begin, end = chr(BEGIN) * (ORDER - 1), chr(END)
    joined = "".join(f"{begin}{_clean(text)}{end}" for text in texts)
    characters = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    return characters, characters != BEGIN


def _clean(text: str) -> str:
    """The text with both marks replaced by U+FFFD; its length does not change."""
    return text.replace(chr(END), "\ufffd").replace(chr(BEGIN), "\ufffd")


def _grams(characters: UInt64s, inside: npt.NDArray[np.bool_], order: int) -> tuple[UInt64s, UInt64s]:
    """Hashes of the n-gram that ends at each predicted character, and of its first n - 1 characters."""
    ends = np.flatnonzero(inside)
    hashes = np.zeros(ends.size, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for back in range(order - 1, 0, -1):
            hashes = _mix(hashes, characters[ends - back])
        return _mix(hashes, characters[ends]), hashes


def _mix(hashes: UInt64s, characters: UInt64s) -> UInt64s:
    mixed = (hashes + characters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def _count(characters: UInt64s, inside: npt.NDArray[np.bool_], order: int) -> Counts:
    grams, contexts = _grams(characters, inside, order)
    distinct, first, gram_counts = np.unique(grams, return_index=True, return_counts=True)
    all_contexts, context_counts = np.unique(contexts, return_counts=True)
    index = np.searchsorted(all_contexts, contexts[first])
    followers = np.bincount(index, minlength=all_contexts.size)
    return Counts(distinct, gram_counts, all_contexts, context_counts, followers)


def _look_up(keys: UInt64s, values: Ints, wanted: UInt64s) -> Ints:
    """The value of each wanted key, 0 for a key that is missing."""
    index = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[index] == wanted, values[index], 0)


class UserCache:
    """Character n-grams of one user's earlier reviews. A context that does not occur falls back to a shorter one."""

    def __init__(self, history: list[str], order: int) -> None:
        self.order = order
        self.counts: dict[str, Counter[str]] = {}
        for text in history:
            padded = chr(BEGIN) * (order - 1) + _clean(text) + chr(END)
            for index in range(order - 1, len(padded)):
                for length in range(order):
                    self.counts.setdefault(padded[index - length : index], Counter())[padded[index]] += 1

    def probabilities(self, text: str) -> Floats:
        """Probability of each character of the text and of its end, from the longest context in the history."""
        padded = chr(BEGIN) * (self.order - 1) + _clean(text) + chr(END)
        probabilities = []
        for index in range(self.order - 1, len(padded)):
            contexts = (padded[index - length : index] for length in range(self.order - 1, -1, -1))
            counter = next((self.counts[context] for context in contexts if context in self.counts), Counter())
            probabilities.append(counter[padded[index]] / counter.total() if counter else 0.0)
        return np.array(probabilities)


@dataclass(frozen=True)
class Case:
    """A text to score, and the earlier reviews of the user whose prompt is used."""

    text: str
    log_p: Floats  # of the n-gram model without cache
    history: list[str]

    def cached(self, order: int) -> Floats | None:
        """Probabilities of the characters from the cache of the history; None without history."""
        return UserCache(self.history, order).probabilities(self.text) if self.history else None

    def mixed_nll(self, cached: Floats | None, weight: float) -> float:
        """NLL in nats under (1 - weight) n-gram + weight cache, or under the n-gram model alone without history."""
        if cached is None or not weight:
            return -float(self.log_p.sum())
        return -float(np.log((1 - weight) * np.exp(self.log_p) + weight * cached).sum())

    def nll(self, order: int, weight: float) -> float:
        """NLL in nats with a cache of this order and weight."""
        return self.mixed_nll(self.cached(order) if weight else None, weight)


def ngram_scores(train_texts: list[str], targets: pl.DataFrame, histories: dict[int, list[str]]) -> pl.DataFrame:
    """Scores of the n-gram model with the user's cache: the columns of `schemas.SCORES` without `n_tokens`, `stars`.

    Unlike a model's, the val targets too have scores under impostors, so that a baseline can be chosen on val.

    The "prompt" of a user is the cache of that user's earlier reviews; the empty prompt is no cache. The order and
    the weight of the cache are those with the smallest NLL on val.

    Args:
        train_texts: training texts; the first `MAX_TEXTS` are used.
        targets: `schemas.TARGETS`.
        histories: texts of the earlier reviews by target.
    """
    model = NgramModel(train_texts[:MAX_TEXTS])
    ordered = targets.sort("interaction_id")
    log_p = dict(zip(ordered["interaction_id"], model.log_probabilities(ordered["text"].to_list()), strict=True))
    texts = dict(ordered.select("interaction_id", "text").iter_rows())
    blocks = {
        block: ids for block, ids in ordered.drop_nulls("block").group_by("block").agg("interaction_id").iter_rows()
    }

    def case(target: int, user_of: int) -> Case:
        return Case(texts[target], log_p[target], histories.get(user_of, []))

    val = [case(target, target) for target in ordered.filter(pl.col("cohort") == "val")["interaction_id"]]
    nll = {}
    for order in CACHE_ORDERS:
        caches = [c.cached(order) for c in val]
        for weight in CACHE_WEIGHTS:
            nll[order, weight] = sum(c.mixed_nll(cached, weight) for c, cached in zip(val, caches, strict=True))
    order, weight = min(nll, key=lambda setting: nll[setting])
    rows = []
    for row in ordered.iter_rows(named=True):
        target = row["interaction_id"]
        others = sorted(other for other in blocks.get(row["block"], []) if other != target)
        rows.append(
            {
                **{name: row[name] for name in ("interaction_id", "user_id", "item_id", "cohort")},
                "n_characters": len(row["text"]),
                "nll": case(target, target).nll(order, weight),
                "impostor_ids": others,
                "nll_impostors": [case(target, other).nll(order, weight) for other in others],
                "nll_empty": -float(log_p[target].sum()),
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)
