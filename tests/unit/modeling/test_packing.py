"""Which samples make up a row, and which rows a rank computes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.modeling.packing import PartOfTokens, TokenTable, pack_row, plan_rows, tokens_to_compute
from persona.modeling.prefix_tree import common_prefix
from persona.tables import schemas
from persona.tables.parquet import write_table
from tests.unit.modeling.samples import SAMPLES, Samples, shared_rows, table_of


def test_every_target_is_in_exactly_one_row_and_ranks_run_as_many(table: TokenTable) -> None:
    for ranks in (1, 2, 5):
        planned = plan_rows(table, np.arange(len(table)), ranks, 60, prefix_sharing=False)
        assert len({len(rows) for rows in planned}) == 1
        assert sorted(i for rows in planned for row in rows for i in row.members) == list(range(len(table)))
        of_rows = [
            table.computed_lengths[row.members].sum() for rows in planned for row in rows if len(row.members) > 1
        ]
        assert max(of_rows) <= 60


def test_a_step_of_the_eight_gpu_recipe_is_one_row_a_gpu() -> None:
    lengths = np.full(64, 400)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(starts[-1], dtype=np.int32)
    table = TokenTable(ids, starts, np.full(64, 300, dtype=np.int32), np.arange(64))
    for prefix_sharing in (True, False):
        rows = plan_rows(table, np.arange(64), 8, 8192, prefix_sharing)
        assert [len(of_rank) for of_rank in rows] == [1] * 8
        # One sample at a time takes eight.
        rows = plan_rows(table, np.arange(64), 8, 400, prefix_sharing)
        assert [len(of_rank) for of_rank in rows] == [8] * 8


@given(SAMPLES)
@settings(max_examples=20)
def test_every_distinct_prefix_is_computed_once(samples: Samples) -> None:
    table, rows = shared_rows(samples)
    documents = [tuple(prompt + completion)[:-1] for prompt, completion in samples]
    distinct = {document[:n] for document in documents for n in range(1, len(document) + 1)}
    assert tokens_to_compute(table, rows) == len(distinct)
    assert pack_row(table, rows[0].members, rows[0].shared).input_ids.shape[1] == len(distinct)


@given(SAMPLES, st.integers(1, 40), st.integers(1, 3))
def test_rows_hold_every_sample_once_and_no_more_tokens_than_allowed(
    samples: Samples, max_tokens: int, n_ranks: int
) -> None:
    table, rows = shared_rows(samples, max_tokens, n_ranks)
    assert sorted(sample for row in rows for sample in row.members) == list(range(len(table)))
    for row in rows:
        assert len(row.members) == 1 or tokens_to_compute(table, [row]) <= max_tokens
        for (one, other), shared in zip(pairwise(row.members), row.shared[1:], strict=True):
            assert shared == common_prefix(table[one][:-1], table[other][:-1])
        assert row.shared[0] == 0


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(1, 3))
def test_sharing_takes_no_more_micro_steps_than_packing(lengths: list[int], n_ranks: int) -> None:
    rng = np.random.default_rng(0)
    table = table_of([(rng.integers(3, 11, n).tolist(), [3]) for n in lengths])
    samples = np.arange(len(table))
    shared, packed = (plan_rows(table, samples, n_ranks, 60, sharing) for sharing in (True, False))
    assert len(shared[0]) <= len(packed[0])
    computed = [sum(tokens_to_compute(table, rows) for rows in planned) for planned in (shared, packed)]
    assert computed[0] <= computed[1]


def test_a_part_of_a_file_has_the_chosen_samples_and_all_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "interaction_id": n, "user_id": f"{n // 3:016x}", "input_ids": rng.integers(1, 99, 3 + n % 17).tolist(),
            "prompt_length": 2, "text_start": 2, "n_history_dropped": 0, "n_context_dropped": 0,
            "is_cut_for_completion": False,
        }
        for n in range(9_000)
    ]  # fmt: skip
    path = tmp_path / "tokens.parquet"
    write_table(pl.DataFrame(rows, schema=schemas.TOKENS.columns), path, schemas.TOKENS)
    monkeypatch.setattr("persona.modeling.packing.ROWS_AT_ONCE", 1_000)
    whole = TokenTable.read(path)
    chosen = np.array([8_999, 0, 4_096, 5_000, 4_096])
    part = PartOfTokens.read_some(path, lambda users: chosen[users[chosen] >= 0])
    assert len(part) == len(whole) and (part.users == whole.users).all()
    assert (part.lengths == whole.lengths).all() and (part.completion_lengths == whole.completion_lengths).all()
    for sample in chosen:
        assert (part[sample] == whole[sample]).all()
    assert len(part.ids) == whole.lengths[np.unique(chosen)].sum()
    with pytest.raises(KeyError):
        part[1]
