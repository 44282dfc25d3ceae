"""Attention within the prefix trees of a row: each token attends only to its ancestors and itself.

On a GPU FlexAttention (Dong et al. 2024, arXiv:2412.05496) skips the blocks of the score matrix that no token
attends to. Elsewhere torch's attention is called once per run, on the pieces that the run attends to. A dense mask
would compute the whole matrix, see docs/performance.md. In a packed row without shared tokens each run attends only
to itself.
"""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from persona.modeling.prefix_tree import Layout, lay_out

BY_PREFIX = "by_prefix"
QUERIES = 128  # queries of a run that are computed at once


def attend_by_prefix(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    tree: Layout | BlockMask | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of queries, keys and values `[1, heads, T, width]` of one row.

    Without `tree` (generation, padded batches) it is torch's attention with its mask.
    """
    if tree is None:
        if attention_mask is not None and attention_mask.shape[-1] < key.shape[2]:
            raise ValueError(
                f"{type(module).__name__} does not hand on what tokens attend to; this model cannot be used"
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    if isinstance(tree, BlockMask):
        attend: Any = compiled_flex_attention() if query.is_cuda else flex_attention
        output = attend(query, key, value, block_mask=tree, scale=options["scaling"], enable_gqa=True)
        return output.transpose(1, 2).contiguous(), None
    return _attend_run_by_run(query, key, value, tree, options["scaling"], options.get("dropout", 0.0)), None


def _attend_run_by_run(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float, dropout: float
) -> torch.Tensor:
    """The output `[1, T, heads, width]`."""
    if layout.branches:
        if dropout:
            raise ValueError("samples that share tokens would share what dropout drops")
        output: torch.Tensor = _RunByRun.apply(query, key, value, layout, scale)  # type: ignore[no-untyped-call]
    else:
        runs = zip(*(torch.split(states, layout.runs, dim=2) for states in (query, key, value)), strict=True)
        output = torch.cat([_attend(q, k, v, scale, dropout) for q, k, v in runs], dim=2)
    return output.transpose(1, 2).contiguous()


class _RunByRun(torch.autograd.Function):
    """Attention of each run to the pieces of the row that it sees.

    These pieces overlap between runs. Keeping a copy per run until the backward pass would take as much memory as
    samples without shared tokens, so the backward pass gathers them again and adds up their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float
    ) -> Any:
        ctx.save_for_backward(query, key, value)
        ctx.layout, ctx.scale = layout, scale
        output = query.new_empty(*query.shape[:3], value.shape[3])
        for run, seen in layout.each_run():
            output[:, :, run] = _attend(query[:, :, run], _gather(key, seen), _gather(value, seen), scale)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value = ctx.saved_tensors
        query_gradient = torch.empty_like(query)
        key_gradient, value_gradient = torch.zeros_like(key), torch.zeros_like(value)
        for run, seen in ctx.layout.each_run():
            q, k, v = query[:, :, run], _gather(key, seen), _gather(value, seen)
            with torch.enable_grad():
                inputs = q, k, v = q.detach().requires_grad_(), k.detach().requires_grad_(), v.detach().requires_grad_()
                output = _attend(q, k, v, ctx.scale)
            query_gradient[:, :, run], *seen_gradients = torch.autograd.grad(output, inputs, gradients[0][:, :, run])
            for whole, part in zip((key_gradient, value_gradient), seen_gradients, strict=True):
                pieces = torch.split(part, [piece.stop - piece.start for piece in seen], dim=2)
                for piece, gradient in zip(seen, pieces, strict=True):
                    whole[:, :, piece] += gradient
        return query_gradient, key_gradient, value_gradient, None, None


def _gather(states: torch.Tensor, pieces: list[slice]) -> torch.Tensor:
    """Pieces of keys or values, joined."""
    if len(pieces) == 1:
        return states[:, :, pieces[0]]
    return torch.cat([states[:, :, piece] for piece in pieces], dim=2)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float = 0.0
) -> torch.Tensor:
    """Causal attention of a run, which is the end of the keys that it sees."""
    run, seen = query.shape[2], key.shape[2]
    if run == seen:
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=True
        )
    if query.is_cuda:
        # With a mask, torch's GPU kernels for grouped heads store all scores.
        key, value = (repeat_kv(states, query.shape[1] // key.shape[1]) for states in (key, value))
    outputs = []
    # A few queries at a time, because with a mask torch also computes the masked scores.
    for start in range(0, run, QUERIES):
        part = query[:, :, start : start + QUERIES]
        until = seen - run + start + part.shape[2]
        mask = torch.ones(part.shape[2], until, dtype=torch.bool, device=query.device).tril(until - part.shape[2])
        outputs.append(
            functional.scaled_dot_product_attention(
                part, key[:, :, :until], value[:, :, :until], mask, scale=scale, enable_gqa=not query.is_cuda
            )
        )
    return torch.cat(outputs, dim=2)


def block_mask(layout: Layout, length: int, device: torch.device) -> BlockMask:
    """FlexAttention's mask of a row that is padded to a length; padding attends only to itself.

    Building it takes three bytes per pair of tokens for a moment: 0.2 GB for a row of 8,192.
    """
    ends = torch.arange(1, length + 1, device=device)
    ends[: len(layout.ends)] = torch.from_numpy(layout.ends).to(device)

    def sees(_batch: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    return create_block_mask(sees, None, None, length, length, device=str(device))


def bucketed(n_tokens: int) -> int:
    """The length to pad a row to. A kernel is compiled per length, so there are few: 16 up to 8,192."""
    step = 128 if n_tokens <= 1024 else max(1024, 1 << (math.ceil(math.log2(n_tokens)) - 3))
    return math.ceil(n_tokens / step) * step


@lru_cache
def flex_attention_works(device: torch.device, head_width: int) -> bool:
    """Whether FlexAttention computes gradients on a device: on a GPU that Triton supports, with a C compiler.

    Tried once on a few tokens. Where it fails, attention goes run by run, which gives the same and takes longer.
    """
    if device.type != "cuda":
        return False
    shape, dtype = (1, 1, 128, head_width), torch.bfloat16
    query, key, value = (torch.zeros(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
    layout, _ = lay_out([96, 64], [0, 32])
    try:
        output, _ = attend_by_prefix(None, query, key, value, None, block_mask(layout, 128, device), scaling=1.0)
        torch.autograd.grad(output.sum(), (query, key, value))
    except Exception as error:  # whatever the compiler says
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"FlexAttention does not work here, so attention goes run by run, slower: {reason}", file=sys.stderr)
        return False
    return True


@lru_cache(maxsize=1)
def compiled_flex_attention() -> Any:
    """FlexAttention, compiled once per length."""
    # With the usual limit of 8 lengths, further ones would run uncompiled, on the whole score matrix.
    return torch.compile(flex_attention, dynamic=False, recompile_limit=256)  # type: ignore[call-overload]


ALL_ATTENTION_FUNCTIONS.register(BY_PREFIX, attend_by_prefix)
ALL_MASK_ATTENTION_FUNCTIONS.register(BY_PREFIX, sdpa_mask)
