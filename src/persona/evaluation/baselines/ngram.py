"""A character n-gram model with a cache of the user's history: what counting alone can do for the likelihood."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from persona.evaluation.metrics.bootstrap import Floats, Ints

ORDER = 5
END, BEGIN = 0, 1  # not in any text: the one ends it, the other stands before it
# Assigned characters of Unicode 16: the probability of a character before anything is known.
ALPHABET = 155_063
CACHE_WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
CACHE_ORDERS = (1, 2, 3)
MAX_TEXTS = 200_000

UInt64s = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Counts:
    """Of one order: the n-grams' hashes in order, how often each occurs, and the same of their contexts."""

    grams: UInt64s
    gram_counts: Ints
    contexts: UInt64s
    context_counts: Ints
    followers: Ints  # distinct characters that follow a context


class NgramModel:
    """Interpolated Witten-Bell smoothing (Bell, Cleary, Witten, Text Compression, 1990; Chen and Goodman 1999, 2.6).

    p_n(c | h) = (count(hc) + followers(h) p_{n-1}(c | h')) / (count(h) + followers(h)), down to a uniform
    distribution over the characters of Unicode.
    """

    def __init__(self, texts: list[str]) -> None:
        characters, inside = _sequence(texts)
        self.orders = [_count(characters, inside, order) for order in range(1, ORDER + 1)]

    def log_probabilities(self, texts: list[str]) -> list[Floats]:
        """Natural log-probability of each character of each text and of its end."""
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
    """All texts, each after its begin marks and before its end; and which characters are to be foretold."""
    begin, end = chr(BEGIN) * (ORDER - 1), chr(END)
    joined = "".join(f"{begin}{_clean(text)}{end}" for text in texts)
    characters = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    return characters, characters != BEGIN


def _clean(text: str) -> str:
    """The text without the two marks; its length stays."""
    return text.replace(chr(END), "\ufffd").replace(chr(BEGIN), "\ufffd")


def _grams(characters: UInt64s, inside: npt.NDArray[np.bool_], order: int) -> tuple[UInt64s, UInt64s]:
    """Hashes of the n-gram that ends at each foretold character, and of its first n - 1 characters."""
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
    place = np.searchsorted(all_contexts, contexts[first])
    followers = np.bincount(place, minlength=all_contexts.size)
    return Counts(distinct, gram_counts, all_contexts, context_counts, followers)


def _look_up(keys: UInt64s, values: Ints, wanted: UInt64s) -> Ints:
    """The value of each wanted key, 0 where there is none."""
    place = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[place] == wanted, values[place], 0)


class UserCache:
    """Character n-grams of one user's earlier reviews; a context that is not there falls back to a shorter one."""

    def __init__(self, history: list[str], order: int) -> None:
        self.order = order
        self.counts: dict[str, Counter[str]] = {}
        for text in history:
            padded = chr(BEGIN) * (order - 1) + _clean(text) + chr(END)
            for place in range(order - 1, len(padded)):
                for length in range(order):
                    self.counts.setdefault(padded[place - length : place], Counter())[padded[place]] += 1

    def probabilities(self, text: str) -> Floats:
        """Of each character of the text and of its end, by the longest context that the history has."""
        padded = chr(BEGIN) * (self.order - 1) + _clean(text) + chr(END)
        found = []
        for place in range(self.order - 1, len(padded)):
            contexts = (padded[place - length : place] for length in range(self.order - 1, -1, -1))
            counter = next((self.counts[context] for context in contexts if context in self.counts), Counter())
            found.append(counter[padded[place]] / counter.total() if counter else 0.0)
        return np.array(found)


@dataclass(frozen=True)
class Case:
    """A text to score, and whose earlier reviews may be used for it."""

    text: str
    log_p: Floats  # of the n-gram model, without cache
    history: list[str]

    def nll(self, order: int, weight: float) -> float:
        """Negative log-likelihood in nats of (1 - weight) n-gram + weight cache; the n-gram alone without history."""
        if not self.history or not weight:
            return -float(self.log_p.sum())
        cache = UserCache(self.history, order).probabilities(self.text)
        return -float(np.log((1 - weight) * np.exp(self.log_p) + weight * cache).sum())


def ngram_scores(train_texts: list[str], targets: pl.DataFrame, histories: dict[int, list[str]]) -> pl.DataFrame:
    """Scores of the n-gram model with the user's cache, in the columns of `schemas.SCORES` but `n_tokens`.

    A user's prompt is here that user's earlier reviews; the empty prompt is no cache at all. Order and weight
    of the cache are those of the smallest NLL on val.

    Args:
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
    order, weight = min(
        ((order, weight) for order in CACHE_ORDERS for weight in CACHE_WEIGHTS),
        key=lambda setting: sum(c.nll(*setting) for c in val),
    )
    rows = []
    for row in ordered.iter_rows(named=True):
        target = row["interaction_id"]
        others = sorted(other for other in blocks.get(row["block"], []) if other != target)
        is_test = row["cohort"] == "test"
        rows.append(
            {
                **{name: row[name] for name in ("interaction_id", "user_id", "item_id", "cohort")},
                "n_characters": len(row["text"]),
                "nll": case(target, target).nll(order, weight),
                "impostor_ids": others if is_test else None,
                "nll_impostors": [case(target, other).nll(order, weight) for other in others] if is_test else None,
                "nll_empty": -float(log_p[target].sum()) if is_test else None,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)
