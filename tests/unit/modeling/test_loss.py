"""Packed rows and rows that share tokens give the loss and the gradients of one sample at a time."""

from __future__ import annotations

import weakref
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3MoeForCausalLM
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from persona.modeling import loss
from persona.modeling.attention import BY_PREFIX
from persona.modeling.loss import CHUNK, CompletionLoss, chunked_nll, flash_arguments
from persona.modeling.packing import TokenTable, fill_rows, pack_row
from tests.unit.modeling.samples import (
    GROWING,
    RAGGED,
    SAMPLES,
    TIES,
    VOCABULARY,
    Samples,
    new_model,
    shared_rows,
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


@pytest.fixture(scope="module")
def model() -> Qwen3MoeForCausalLM:
    return new_model(BY_PREFIX, VOCABULARY)


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


def gradients_of(model: Qwen3MoeForCausalLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for name, p, gradient in zip(names, parameters, found, strict=True)
    }


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
    expected = gradients_of(model, expected_loss)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    table, rows = shared_rows(samples, max_tokens)
    loss = CompletionLoss(model)
    total = torch.stack([loss(pack_row(table, row.members, row.shared)).sum() for row in rows]).sum()
    found = gradients_of(model, total)
    model.gradient_checkpointing_disable()
    torch.testing.assert_close(total, expected_loss, rtol=1e-5, atol=0)
    whole = torch.sqrt(sum((torch.linalg.vector_norm(g) ** 2 for g in expected.values()), torch.zeros(())))
    for name, gradient in found.items():
        error = torch.linalg.vector_norm(gradient - expected[name])
        # Of a gradient that is nearly 0 only the size beside the others is known.
        assert error <= 1e-5 * torch.linalg.vector_norm(expected[name]) + 1e-7 * whole, name


def test_another_attention_refuses_rows_that_share(model: Qwen3MoeForCausalLM) -> None:
    table, [row] = shared_rows(GROWING)
    other = Qwen3MoeForCausalLM._from_config(deepcopy(model.config), attn_implementation="sdpa")
    with pytest.raises(ValueError, match="need the attention"):
        CompletionLoss(other)(pack_row(table, row.members, row.shared))


def test_the_model_itself_stays_as_it_is(table: TokenTable) -> None:
    model = new_model(BY_PREFIX).eval()
    ids = torch.tensor(table[0], dtype=torch.int64)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        likelihoods = CompletionLoss(model)(pack_row(table, [0]))
        after = model(input_ids=ids).logits
        written = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    assert likelihoods.shape == (int(table.completion_lengths[0]),)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert written.shape[1] <= ids.shape[1] + 3
    assert "forward" not in vars(model.lm_head)


def test_an_error_leaves_the_head_as_it_is(table: TokenTable) -> None:
    model = new_model(BY_PREFIX)
    row = pack_row(table, [0])
    with pytest.raises(IndexError):
        CompletionLoss(model)(replace(row, labels=row.labels + 1000))
    assert "forward" not in vars(model.lm_head)


def test_flash_attention_is_told_where_samples_begin_as_transformers_would_find_out(table: TokenTable) -> None:
    row = pack_row(table, [3, 1, 7])
    expected, lengths = prepare_fa_kwargs_from_position_ids(row.position_ids)
    found = flash_arguments(row)
    assert found["cu_seq_lens_q"].tolist() == found["cu_seq_lens_k"].tolist() == expected[0].tolist()
    assert found["cu_seq_lens_q"].dtype == torch.int32
    assert (found["max_length_q"], found["max_length_k"]) == tuple(map(int, lengths))
