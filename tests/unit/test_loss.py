"""Packed rows give the loss and the gradients of one target at a time."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from persona.modeling import loss
from persona.modeling.attention import BY_PREFIX
from persona.modeling.loss import CHUNK, CompletionLoss, chunked_nll
from persona.modeling.packing import TokenTable, fill_rows, pack_row, plan_rows


@pytest.fixture
def table() -> TokenTable:
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in rng.integers(5, 40, 12)]
    return TokenTable.from_frame(
        pl.DataFrame(
            {
                "input_ids": [rng.integers(0, 97, n).tolist() for n in lengths],
                "prompt_length": [int(rng.integers(2, n - 1)) for n in lengths],
                "user_id": [str(n) for n in range(len(lengths))],
            },
            schema={"input_ids": pl.List(pl.Int32), "prompt_length": pl.Int32, "user_id": pl.String},
        )
    )


def new_model(attention: str = "sdpa", vocab_size: int = 97) -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM._from_config(
        Qwen3MoeConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            moe_intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            # No part of the loss here, whatever the config says.
            output_router_logits=True,
        ),
        attn_implementation=attention,
    )


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("chunk", "attention"), [(7, BY_PREFIX), (1024, BY_PREFIX), (1024, "sdpa")])
def test_packed_equals_one_at_a_time_in_plain_torch(
    table: TokenTable, chunk: int, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    plain = new_model()
    total = torch.zeros(())
    for i in range(len(table)):
        ids = torch.tensor(table.ids[table.starts[i] : table.starts[i + 1]], dtype=torch.int64)
        prompt = int(table.prompt_lengths[i])
        logits = plain(input_ids=ids[None], use_cache=False).logits[0, prompt - 1 : -1]
        total = total + functional.cross_entropy(logits, ids[prompt:], reduction="sum")
    total.backward()

    packed = CompletionLoss(new_model(attention))
    sums = [packed(pack_row(table, row)).sum() for row in fill_rows(table.lengths, list(range(len(table))), 100)]
    packed_total = torch.stack(sums).sum()
    packed_total.backward()

    torch.testing.assert_close(packed_total, total, rtol=1e-5, atol=1e-5)
    expected = gradients(plain)
    for name, gradient in gradients(packed.model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_every_target_is_in_exactly_one_row_and_ranks_run_as_many(table: TokenTable) -> None:
    for ranks in (1, 2, 5):
        planned = plan_rows(table, np.arange(len(table)), ranks, 60, prefix_sharing=False)
        assert len({len(rows) for rows in planned}) == 1
        assert sorted(i for rows in planned for row in rows for i in row.members) == list(range(len(table)))
        of_rows = [
            table.computed_lengths[row.members].sum() for rows in planned for row in rows if len(row.members) > 1
        ]
        assert max(of_rows) <= 60


class LiveLogits(TorchDispatchMode):
    """Counts the bytes of tensors as wide as the vocabulary that are alive at once."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.now, self.most = vocabulary, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and tensor.shape[1] == self.vocabulary:
                self.now += tensor.nbytes
                self.most = max(self.most, self.now)
                weakref.finalize(tensor, self._forget, tensor.nbytes)
        return result

    def _forget(self, n_bytes: int) -> None:
        self.now -= n_bytes


def test_the_memory_of_the_logits_is_that_of_one_chunk() -> None:
    vocabulary, width = 3000, 16
    weight = torch.randn(vocabulary, width, requires_grad=True)

    def most_bytes(n_tokens: int) -> int:
        hidden = torch.randn(n_tokens, width, requires_grad=True)
        with LiveLogits(vocabulary) as logits:
            chunked_nll(weight, hidden, torch.zeros(n_tokens, dtype=torch.int64)).sum().backward()
        return logits.most

    one = most_bytes(CHUNK)
    assert CHUNK * vocabulary * 4 <= one <= 5 * CHUNK * vocabulary * 4  # views are counted too
    assert most_bytes(8 * CHUNK) == one


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
