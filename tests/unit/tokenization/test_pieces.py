"""Prompts are cut at their history entries, and the pieces give the prompts again."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from persona.tokenization.pieces import Cut, TokenPool, cut_into_pieces


@pytest.mark.parametrize("cut", ["lines", "words"])
def test_the_pieces_of_a_prompt_are_the_prompt(long_histories: pl.DataFrame, cut: Cut) -> None:
    pieces = cut_into_pieces(long_histories, cut)
    assert pieces.texts[0] == "" and len(set(pieces.texts)) == len(pieces.texts)
    ends = np.cumsum(pieces.counts)
    for n, row in enumerate(long_histories.iter_rows(named=True)):
        indices = pieces.rows.row(n, named=True)
        entries = pieces.entries[ends[n] - pieces.counts[n] : ends[n]].ravel()
        parts = [indices["head"], indices["heading"], *entries, indices["tail"]]
        assert "".join(pieces.texts[index] for index in parts) == row["prompt"]
        assert pieces.texts[indices["star_line"]] + pieces.texts[indices["text"]] == row["completion"]


@pytest.mark.parametrize("cut", ["lines", "words"])
def test_an_entry_that_several_targets_share_is_one_piece(long_histories: pl.DataFrame, cut: Cut) -> None:
    pieces = cut_into_pieces(long_histories, cut)
    n_entries, n_distinct = len(pieces.entries), long_histories["history_ids"].explode().n_unique()
    assert n_entries > 10 * n_distinct
    # At most two texts per entry, one of which differs where the entry is the last one.
    assert len(np.unique(pieces.entries)) <= 3 * n_distinct


class Encoding:
    """As much of an encoding of `tokenizers` as the pool reads."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)


def test_the_pool_joins_the_ids_of_texts() -> None:
    pool = TokenPool([Encoding([1, 2]), Encoding([]), Encoding([3])], [[7, 8, 9]])
    assert pool.lengths.tolist() == [2, 0, 1, 3]
    assert pool.gather(np.array([3, 1, 0, 0, 2])).tolist() == [7, 8, 9, 1, 2, 1, 2, 3]
