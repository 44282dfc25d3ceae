"""The history entries that each window keeps."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest

from persona.modeling.packing import TokenTable, plan_rows, tokens_to_compute
from persona.tokenization.chat import encode
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import check_assembly, tokenize
from persona.tokenization.window import kept_entries

WINDOWS: tuple[Literal["anchored", "recent"], ...] = ("anchored", "recent")


def entry_lengths(prompt: dict[str, Any], tokenizer: Any) -> list[int]:
    offsets = prompt["history_offsets"]
    texts = [prompt["prompt"][start:end] for start, end in itertools.pairwise(offsets[1:])]
    return [len(ids) for ids in encode(tokenizer, texts, special=False)]


def test_windows_keep_the_entries_that_their_rules_say(long_histories: pl.DataFrame, tokenizer: Any) -> None:
    """Against the rules written as loops."""
    limit = 1000
    kept = {}
    for window in WINDOWS:
        tokens = tokenize(long_histories, tokenizer, FitSettings(max_length=limit, history_window=window))
        check_assembly(long_histories, tokens, tokenizer)
        assert tokens["input_ids"].list.len().max() <= limit
        kept[window] = dict(tokens.select("interaction_id", "n_history_dropped").iter_rows())
    whole = tokenize(long_histories, tokenizer, FitSettings(max_length=100_000))
    total = dict(zip(whole["interaction_id"], whole["input_ids"].list.len(), strict=True))
    for prompt in long_histories.iter_rows(named=True):
        target, lengths = prompt["interaction_id"], entry_lengths(prompt, tokenizer)
        n_own = len(encode(tokenizer, [prompt["completion"]], special=False)[0]) + 1
        room = limit - (total[target] - sum(lengths)) + n_own - max(n_own, limit // 4)
        begins = list(itertools.accumulate(lengths, initial=0))
        recent = next(n for n in range(len(lengths) + 1) if sum(lengths[n:]) <= room)
        assert kept["recent"][target] == recent
        block = (limit - limit // 4) // 2
        anchors = [n for n in range(1, len(lengths)) if begins[n] // block != begins[n - 1] // block]
        wanted = [n for n in [0, *anchors] if n >= recent and 3 * sum(lengths[n:]) >= room]
        assert kept["anchored"][target] == (wanted[0] if wanted else recent)


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        (
            [20, *[40] * 12, 290, 10],
            780,
            14,
        ),  # from the next block on little would stay, so as much as there is room for
        ([40] * 30, 760, 17),
        ([40] * 30, 770, 17),
        ([40] * 24, 300, 7),  # no block begins among these
        ([40] * 5, 760, 5),
    ],
)
def test_an_anchored_window_uses_at_least_a_third_of_the_room(lengths: list[int], room: int, kept: int) -> None:
    """A second prompt that fits, to see that they do not mix."""
    counts = np.array([len(lengths), 0, 2])
    stays = kept_entries(np.array([*lengths, 30, 30]), counts, np.array([room, 5, 100]), FitSettings(max_length=1365))
    assert stays[: len(lengths)].sum() == kept and stays[len(lengths) :].all()
    assert stays[: len(lengths)].tolist() == sorted(stays[: len(lengths)].tolist())


def test_successive_targets_share_an_anchored_history(long_histories: pl.DataFrame, tokenizer: Any) -> None:
    shared = {}
    for window in WINDOWS:
        table = TokenTable.from_frame(
            tokenize(long_histories, tokenizer, FitSettings(max_length=1300, history_window=window))
        )
        [[row]] = plan_rows(table, np.arange(len(table)), 1, 10**9, prefix_sharing=True)
        shared[window] = tokens_to_compute(table, [row]) / table.computed_lengths.sum()
    assert shared["anchored"] < shared["recent"] / 2
