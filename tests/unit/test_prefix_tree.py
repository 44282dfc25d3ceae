"""Rows that compute shared tokens once give the losses and gradients of samples computed one by one."""

from __future__ import annotations

from copy import deepcopy
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.nn.attention.flex_attention import create_mask
from transformers import Qwen3MoeForCausalLM

from persona.modeling.attention import BY_PREFIX, attend_by_prefix, block_mask, bucketed, flex_attention_works
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import RowPlan, TokenTable, pack_row, plan_rows, tokens_to_compute
from persona.modeling.prefix_tree import Layout, PrefixOrder, common_prefix, lay_out
from tests.unit.test_loss import new_model

VOCABULARY = 11
Samples = list[tuple[list[int], list[int]]]

# So few different tokens that prompts share prefixes, are prefixes of each other, or are the same.
TOKENS = st.lists(st.sampled_from([3, 5]), min_size=1, max_size=9)
SAMPLES = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=9)
GROWING: Samples = [([3, 5] * n, [5, 3, 5]) for n in (4, 2, 7, 5)]
TIES: Samples = [([3, 5], [5, 5, 3])] * 3
RAGGED: Samples = [([3], [5]), ([3, 5, 3, 3], [3]), ([3, 5], [3, 3, 5]), ([5] * 12, [3])]


def table_of(samples: Samples) -> TokenTable:
    documents = [prompt + completion for prompt, completion in samples]
    return TokenTable(
        ids=np.concatenate(documents).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum([len(document) for document in documents])]),
        prompt_lengths=np.array([len(prompt) for prompt, _ in samples], dtype=np.int32),
        users=np.zeros(len(samples), dtype=np.int64),
    )


def shared_rows(samples: Samples, max_tokens: int = 1000, n_ranks: int = 1) -> tuple[TokenTable, list[RowPlan]]:
    table = table_of(samples)
    planned = plan_rows(table, np.arange(len(table)), n_ranks, max_tokens, prefix_sharing=True)
    return table, [row for of_rank in planned for row in of_rank if row.members]


@pytest.fixture(scope="module")
def model() -> Qwen3MoeForCausalLM:
    return new_model(BY_PREFIX, VOCABULARY)


def gradients(model: Qwen3MoeForCausalLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for name, p, gradient in zip(names, parameters, found, strict=True)
    }


def one_by_one(model: Qwen3MoeForCausalLM, samples: Samples) -> torch.Tensor:
    """The sum of the completion tokens' NLL in plain transformers, a forward a sample."""
    total = torch.zeros(())
    for prompt, completion in samples:
        logits = model.lm_head.__class__.forward(
            model.lm_head, model.model(input_ids=torch.tensor([prompt + completion]), use_cache=False)[0]
        )
        total = total + functional.cross_entropy(
            logits[0, len(prompt) - 1 : -1], torch.tensor(completion), reduction="sum"
        )
    return total


@given(SAMPLES, st.integers(1, 60), st.booleans())
@example(GROWING, 1000, False)
@example(TIES, 1000, False)
@example(RAGGED, 1000, True)
@example([([3, 5], [5])], 1000, False)
@example([([3], [5, 3, 5]), ([3, 5], [3, 5])], 1000, False)  # a prompt that goes on as another's completion does
@settings(max_examples=40)
def test_loss_and_gradients_are_those_of_one_by_one(
    model: Qwen3MoeForCausalLM, samples: Samples, max_tokens: int, checkpointing: bool
) -> None:
    expected_loss = one_by_one(model, samples)
    expected = gradients(model, expected_loss)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    table, rows = shared_rows(samples, max_tokens)
    loss = CompletionLoss(model)
    total = torch.stack([loss(pack_row(table, row.members, row.shared)).sum() for row in rows]).sum()
    found = gradients(model, total)
    model.gradient_checkpointing_disable()
    torch.testing.assert_close(total, expected_loss, rtol=1e-5, atol=0)
    whole = torch.sqrt(sum((torch.linalg.vector_norm(g) ** 2 for g in expected.values()), torch.zeros(())))
    for name, gradient in found.items():
        error = torch.linalg.vector_norm(gradient - expected[name])
        # Of a gradient that is nearly 0 only the size beside the others is known.
        assert error <= 1e-5 * torch.linalg.vector_norm(expected[name]) + 1e-7 * whole, name


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


def long_row() -> Layout:
    """Samples that grow beyond several of FlexAttention's blocks of 128 tokens, and others that share nothing."""
    rng = np.random.default_rng(0)
    story = rng.integers(3, 9, 500).tolist()
    samples = [(story[:n], rng.integers(3, 9, 40).tolist()) for n in range(100, 500, 45)]
    samples.append((story[:100] + rng.integers(3, 9, 300).tolist(), [5]))  # more queries than attend at once
    table, [row] = shared_rows([*samples, *RAGGED, (rng.integers(9, 11, 300).tolist(), [3, 4])], 10_000)
    return pack_row(table, row.members, row.shared).layout


def states_of(layout: Layout, length: int) -> list[torch.Tensor]:
    """Queries of four heads, keys and values of two."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, length, 16, generator=generator, requires_grad=True) for heads in (4, 2, 2)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_run_by_run_and_flex_attention_are_that_of_a_dense_mask() -> None:
    """FlexAttention's forward pass alone, which is all of it that a CPU has."""
    layout = long_row()
    n_tokens, length = sum(layout.runs), bucketed(sum(layout.runs))
    assert n_tokens > 1000
    query, key, value = states_of(layout, length)
    places = torch.arange(n_tokens)
    sees = (places <= places[:, None]) & (places[:, None] < torch.from_numpy(layout.ends))
    q, k, v = (each[:, :, :n_tokens] for each in (query, key, value))
    k2, v2 = (each.repeat_interleave(2, dim=1) for each in (k, v))
    dense = functional.scaled_dot_product_attention(q, k2, v2, attn_mask=sees, scale=0.25).transpose(1, 2)
    runs, _ = attend_by_prefix(None, q, k, v, None, layout, scaling=0.25)
    torch.testing.assert_close(runs, dense, rtol=1e-5, atol=1e-6)
    expected, found = (torch.autograd.grad(out.square().sum(), (query, key, value)) for out in (dense, runs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        mask = block_mask(layout, length, torch.device("cpu"))
        q, k, v = (each.detach() for each in (query, key, value))
        flex, _ = attend_by_prefix(None, q, k, v, None, mask, scaling=0.25)
    torch.testing.assert_close(flex[:, :n_tokens], dense, rtol=1e-5, atol=1e-6)


def test_what_attention_keeps_for_the_backward_pass_goes_with_the_tokens_of_the_row() -> None:
    layout = long_row()
    query, key, value = states_of(layout, sum(layout.runs))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out, _ = attend_by_prefix(None, query, key, value, None, layout, scaling=0.25)
    assert out.requires_grad
    assert sum(kept.values()) == query.nbytes + key.nbytes + value.nbytes


@pytest.mark.skipif(not flex_attention_works(torch.device("cuda")), reason="no GPU with Triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_on_a_gpu_gives_the_gradients_of_attention_run_by_run(dtype: torch.dtype) -> None:
    layout, device = long_row(), torch.device("cuda")
    n_tokens, length = sum(layout.runs), bucketed(sum(layout.runs))
    states = [each.detach().to(device, dtype).requires_grad_() for each in states_of(layout, n_tokens)]
    q, k, v = (functional.pad(each, (0, 0, 0, length - n_tokens)) for each in states)
    flex, _ = attend_by_prefix(None, q, k, v, None, block_mask(layout, length, device), scaling=0.25)
    q, k, v = states
    runs, _ = attend_by_prefix(None, q, k, v, None, layout, scaling=0.25)
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    found, expected = (torch.autograd.grad(out[:, :n_tokens].float().square().sum(), states) for out in (flex, runs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_lengths_of_flex_attention_are_few() -> None:
    assert len({bucketed(n) for n in range(1, 8193)}) <= 16
    assert all(n <= bucketed(n) < n + 1024 for n in range(1, 8193))
    assert bucketed(8192) == 8192


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(1, 3))
def test_sharing_takes_no_more_micro_steps_than_packing(lengths: list[int], n_ranks: int) -> None:
    rng = np.random.default_rng(0)
    table = table_of([(rng.integers(3, 11, n).tolist(), [3]) for n in lengths])
    samples = np.arange(len(table))
    shared, packed = (plan_rows(table, samples, n_ranks, 60, sharing) for sharing in (True, False))
    assert len(shared[0]) <= len(packed[0])
    computed = [sum(tokens_to_compute(table, rows) for rows in planned) for planned in (shared, packed)]
    assert computed[0] <= computed[1]


def test_another_attention_refuses_rows_that_share(model: Qwen3MoeForCausalLM) -> None:
    table, [row] = shared_rows(GROWING)
    other = Qwen3MoeForCausalLM._from_config(deepcopy(model.config), attn_implementation="sdpa")
    with pytest.raises(ValueError, match="need the attention"):
        CompletionLoss(other)(pack_row(table, row.members, row.shared))
