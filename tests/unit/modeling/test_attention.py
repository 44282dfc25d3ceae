"""Attention over prefix trees, run by run and by FlexAttention, is that of a dense mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from persona.modeling.attention import attend_by_prefix, block_mask, bucketed
from persona.modeling.packing import pack_row
from persona.modeling.prefix_tree import Layout
from tests.unit.modeling.samples import RAGGED, shared_rows


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


def test_lengths_of_flex_attention_are_few() -> None:
    assert len({bucketed(n) for n in range(1, 8193)}) <= 16
    assert all(n <= bucketed(n) < n + 1024 for n in range(1, 8193))
    assert bucketed(8192) == 8192
