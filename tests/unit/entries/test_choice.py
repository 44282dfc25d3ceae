"""Chosen entries are earlier ones of the user, nested, and those that the rule says."""

from __future__ import annotations

from typing import Literal

import bm25s
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.entries.choice import bm25, terms
from persona.entries.settings import HistorySettings
from persona.history import earlier_reviews
from persona.prompts import render
from tests.unit.entries.examples import make_interactions, make_items, make_spec, make_users, users

Select = Literal["recent", "relevant", "random"]


def shown(interactions: pl.DataFrame, k: int | None, select: Select = "recent", seed: int = 1) -> pl.DataFrame:
    spec = make_spec(HistorySettings(max_entries=k, select=select, seed=seed))
    return render(interactions, interactions, make_users(interactions), make_items(), spec)


def histories(prompts: pl.DataFrame) -> dict[int, list[int]]:
    return dict(prompts.select("interaction_id", "history_ids").iter_rows())


@given(users, st.booleans(), st.sampled_from(["recent", "relevant", "random"]), st.integers(1, 6))
def test_entries_are_earlier_in_order_as_many_as_wanted_and_nested(
    rows: list[list[tuple[bool, str, str]]], is_dated: bool, select: Select, k: int
) -> None:
    interactions = make_interactions(rows, is_dated)
    past = earlier_reviews(interactions, interactions).group_by("interaction_id", maintain_order=True)
    everything = dict(past.agg("history_id").iter_rows())
    fewer, more = histories(shown(interactions, k, select)), histories(shown(interactions, k + 1, select))
    for target, chosen in fewer.items():
        earlier = everything.get(target, [])
        assert len(chosen) == min(k, len(earlier))
        assert chosen == [entry for entry in earlier if entry in chosen]
        assert set(chosen) <= set(more[target])
        if select == "recent":
            assert chosen == earlier[-k:]


@given(users)
def test_all_entries_are_the_same_bytes_whatever_chooses_them(rows: list[list[tuple[bool, str, str]]]) -> None:
    interactions = make_interactions(rows, is_dated=True)
    everything = shown(interactions, None)
    for select in ("recent", "relevant", "random"):
        assert shown(interactions, 99, select).equals(everything)  # type: ignore[arg-type]


def test_no_entry_is_the_prompt_without_history() -> None:
    interactions = make_interactions([[(True, "i0", "one"), (True, "i1", "two")]], is_dated=True)
    prompts = shown(interactions, 0).sort("interaction_id")
    assert prompts["prompt"].to_list() == [f"{0:016x}\n\nIron Man?", f"{0:016x}\n\nIron Man 2?"]
    assert prompts["history_ids"].to_list() == prompts["history_offsets"].to_list() == [[], []]


def test_entries_keep_their_numbers() -> None:
    texts = [(True, "i4", "one"), (True, "i0", "two"), (True, "i4", "three"), (True, "i1", "four")]
    prompts = shown(make_interactions([texts], is_dated=False), 1, "relevant")
    assert "[HISTORY]\n2. Iron Man: two\n\nIron Man 2?" in prompts["prompt"][-1]


@given(users, st.integers(1, 5))
def test_relevance_is_bm25_as_another_library_computes_it(rows: list[list[tuple[bool, str, str]]], k: int) -> None:
    interactions = make_interactions(rows, is_dated=True)
    titled = interactions.join(make_items(), on="item_id").sort("interaction_id")
    pairs = earlier_reviews(titled, titled.select("interaction_id", "user_id", "session", "position"))
    found = {(a, b): score for a, b, score in bm25(pairs, titled, titled).iter_rows()}
    words = {
        row["interaction_id"]: [terms(" ".join([row["title"], *row["genres"], text])) for text in ("", row["text"])]
        for row in titled.iter_rows(named=True)
    }
    chosen = histories(shown(interactions, k, "relevant"))
    for (target,), group in pairs.group_by("interaction_id"):
        entries = group.sort("position")["history_id"].to_list()
        scores = other_library([words[entry][1] for entry in entries], sorted(set(words[target][0])))
        assert scores == pytest.approx([found.get((target, entry), 0.0) for entry in entries], abs=1e-5)
        # The later one where two are as relevant.
        ranked = sorted(range(len(entries)), key=lambda n: (-round(scores[n], 4), -n))
        assert chosen[target] == [entries[n] for n in sorted(ranked[:k])]


def other_library(documents: list[list[str]], query: list[str]) -> list[float]:
    if not any(set(query) & set(document) for document in documents):
        return [0.0] * len(documents)
    retriever = bm25s.BM25()
    retriever.index(documents, show_progress=False)
    return [float(score) for score in retriever.get_scores([term for term in query if term in retriever.vocab_dict])]


def test_without_a_word_in_common_the_last_entries_are_shown() -> None:
    texts = [(True, "i4", "one"), (True, "i4", "two"), (True, "i4", "three"), (True, "i2", "four")]
    assert histories(shown(make_interactions([texts], is_dated=True), 2, "relevant"))[9] == [3, 6]


def test_random_entries_depend_on_the_seed_and_the_target() -> None:
    texts = [(True, "i0", str(n)) for n in range(12)]
    interactions = make_interactions([texts], is_dated=True)
    one, again, other = (histories(shown(interactions, 3, "random", seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert len({tuple(chosen) for target, chosen in one.items() if target > 15}) > 3


def test_words_of_scripts_without_spaces_are_pairs() -> None:
    assert terms("Iron-Man 2: 大圣归来!") == ["iron", "man", "2", "大圣", "圣归", "归来"]
    assert terms("好 x_y。") == ["好", "x", "y"]
    assert terms("…!") == []
