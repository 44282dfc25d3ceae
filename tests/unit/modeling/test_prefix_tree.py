"""The order of samples that share prefixes, how it is cut into rows, and what a token of a row sees."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from persona.modeling.attention import block_mask, bucketed
from persona.modeling.packing import pack_row
from persona.modeling.prefix_tree import PrefixOrder, lay_out
from tests.unit.modeling.samples import GROWING, SAMPLES, TIES, TOKENS, Samples, shared_rows, table_of


@given(SAMPLES)
@example(GROWING)
@example(TIES)
def test_a_token_sees_its_ancestors_alone(samples: Samples) -> None:
    table, [row] = shared_rows(samples)
    layout, places = lay_out([int(table.computed_lengths[sample]) for sample in row.members], row.shared)
    ids = pack_row(table, row.members, row.shared).input_ids[0].numpy()
    ancestors = {int(place): set(path[: depth + 1].tolist()) for path in places for depth, place in enumerate(path)}
    assert sorted(ancestors) == list(range(len(ids)))
    for sample, path in zip(row.members, places, strict=True):
        np.testing.assert_array_equal(ids[path], table[sample][:-1])
        np.testing.assert_array_equal(layout.depths[path], np.arange(len(path)))

    by_ends = {query: {key for key in range(query + 1) if query < layout.ends[key]} for query in ancestors}
    assert by_ends == ancestors
    queries = []
    for run, seen in layout.each_run():
        keys = [place for piece in seen for place in range(piece.start, piece.stop)]
        for query in range(run.start, run.stop):  # causal at the end of what the run sees
            assert set(keys[: len(keys) - (run.stop - query) + 1]) == ancestors[query]
            queries.append(query)
    assert queries == list(range(len(ids)))
    flex = block_mask(layout, bucketed(len(ids)), torch.device("cpu"))
    dense = create_mask(flex.mask_mod, 1, 1, *flex.seq_lengths, device="cpu")[0, 0, : len(ids), : len(ids)]
    assert {query: set(np.flatnonzero(seen).tolist()) for query, seen in enumerate(dense.numpy())} == ancestors


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=6), st.integers(9, 40), st.integers(1, 3))
def test_no_other_cut_has_a_shorter_longest_row(samples: Samples, max_tokens: int, n_ranks: int) -> None:
    table = table_of(samples)
    order = PrefixOrder.of([table[sample][:-1] for sample in range(len(table))], np.arange(len(table)))

    def tokens(rows: list[tuple[int, int]]) -> list[int]:
        return [int((order.lengths - order.shared)[start:stop].sum() + order.shared[start]) for start, stop in rows]

    n, found = len(order.members), order.cut(max_tokens, n_ranks)
    cuts = [list(pairwise([0, *inner, n])) for size in range(n) for inner in combinations(range(1, n), size)]
    allowed = [
        rows
        for rows in cuts
        if all(stop == start + 1 or t <= max_tokens for (start, stop), t in zip(rows, tokens(rows), strict=True))
    ]
    rounds = min(-(-len(rows) // n_ranks) for rows in allowed)
    assert -(-len(found) // n_ranks) == rounds
    if order.lengths.max() <= max_tokens:
        assert max(tokens(found)) == min(max(tokens(rows)) for rows in allowed if len(rows) <= rounds * n_ranks)
