"""Attention within the prefix trees of a row: each token attends to its ancestors and itself alone.

On a GPU FlexAttention (Dong et al. 2024, arXiv:2412.05496) skips the blocks of the row's square that nothing attends
to. Elsewhere torch's attention is called once a run, on the pieces that the run sees. A dense mask over the
row would compute its square, see docs/performance.md. A packed row is the case of runs that see nothing else.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from persona.modeling.prefix_tree import Layout

BY_PREFIX = "by_prefix"
QUERIES = 128  # of a run that attend at once


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
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    if isinstance(tree, BlockMask):
        attend: Any = compiled_flex_attention() if query.is_cuda else flex_attention
        found = attend(query, key, value, block_mask=tree, scale=options["scaling"], enable_gqa=True)
        return found.transpose(1, 2).contiguous(), None
    return _attend_run_by_run(query, key, value, tree, options["scaling"], options.get("dropout", 0.0)), None


def _attend_run_by_run(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float, dropout: float
) -> torch.Tensor:
    """The output `[1, T, heads, width]`."""
    if layout.branches:
        if dropout:
            raise ValueError("samples that share tokens would share what dropout drops")
        found: torch.Tensor = _RunByRun.apply(query, key, value, layout, scale)  # type: ignore[no-untyped-call]
    else:
        runs = zip(*(torch.split(states, layout.runs, dim=2) for states in (query, key, value)), strict=True)
        found = torch.cat([_attend(q, k, v, scale, dropout) for q, k, v in runs], dim=2)
    return found.transpose(1, 2).contiguous()


class _RunByRun(torch.autograd.Function):
    """Attention of each run to what it sees.

    What the runs see overlaps, and to keep a copy for each until the backward pass would be the memory of samples that
    share nothing. So it is gathered again there, and gradients are added up where they belong.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float
    ) -> Any:
        ctx.save_for_backward(query, key, value)
        ctx.layout, ctx.scale = layout, scale
        found = torch.empty_like(query)
        for run, seen in layout.each_run():
            found[:, :, run] = _attend(query[:, :, run], _gather(key, seen), _gather(value, seen), scale)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value = ctx.saved_tensors
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for run, seen in ctx.layout.each_run():
            q, k, v = query[:, :, run], _gather(key, seen), _gather(value, seen)
            with torch.enable_grad():
                inputs = q, k, v = q.detach().requires_grad_(), k.detach().requires_grad_(), v.detach().requires_grad_()
                found = _attend(q, k, v, ctx.scale)
            of_query[:, :, run], *of_seen = torch.autograd.grad(found, inputs, gradients[0][:, :, run])
            for whole, part in zip((of_key, of_value), of_seen, strict=True):
                pieces = torch.split(part, [piece.stop - piece.start for piece in seen], dim=2)
                for piece, gradient in zip(seen, pieces, strict=True):
                    whole[:, :, piece] += gradient
        return of_query, of_key, of_value, None, None


def _gather(states: torch.Tensor, pieces: list[slice]) -> torch.Tensor:
    """Pieces of keys or values, joined."""
    if len(pieces) == 1:
        return states[:, :, pieces[0]]
    return torch.cat([states[:, :, piece] for piece in pieces], dim=2)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float = 0.0
) -> torch.Tensor:
    """Attention that is causal at the end of what is seen."""
    run, seen = query.shape[2], key.shape[2]
    if run == seen:
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=True
        )
    if query.is_cuda:
        # With a mask torch's kernels for grouped heads store all scores there.
        key, value = (repeat_kv(states, query.shape[1] // key.shape[1]) for states in (key, value))
    found = []
    # Some queries at a time, because with a mask torch computes what is hidden as well.
    for start in range(0, run, QUERIES):
        some = query[:, :, start : start + QUERIES]
        until = seen - run + start + some.shape[2]
        mask = torch.ones(some.shape[2], until, dtype=torch.bool, device=query.device).tril(until - some.shape[2])
        found.append(
            functional.scaled_dot_product_attention(
                some, key[:, :, :until], value[:, :, :until], mask, scale=scale, enable_gqa=not query.is_cuda
            )
        )
    return torch.cat(found, dim=2)


def block_mask(layout: Layout, length: int, device: torch.device) -> BlockMask:
    """FlexAttention's mask of a row that is padded to a length; padding sees and is seen by itself alone.

    For a moment it takes three bytes a pair of tokens: 0.2 GB for a row of 8,192.
    """
    ends = torch.arange(1, length + 1, device=device)
    ends[: len(layout.ends)] = torch.from_numpy(layout.ends).to(device)

    def sees(_batch: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    return create_block_mask(sees, None, None, length, length, device=str(device))


def bucketed(n_tokens: int) -> int:
    """A length to pad a row to: a kernel is compiled for each, so there are few, 16 of them up to 8,192."""
    step = 128 if n_tokens <= 1024 else max(1024, 1 << (math.ceil(math.log2(n_tokens)) - 3))
    return math.ceil(n_tokens / step) * step


def flex_attention_works(device: torch.device) -> bool:
    """Whether FlexAttention has a backward pass there: on a GPU that Triton knows."""
    from torch.utils._triton import has_triton

    return device.type == "cuda" and has_triton()


@lru_cache(maxsize=1)
def compiled_flex_attention() -> Any:
    # More than the usual 8 lengths, or further ones would run uncompiled, on the whole square.
    return torch.compile(flex_attention, dynamic=False, recompile_limit=256)  # type: ignore[call-overload]


ALL_ATTENTION_FUNCTIONS.register(BY_PREFIX, attend_by_prefix)
ALL_MASK_ATTENTION_FUNCTIONS.register(BY_PREFIX, sdpa_mask)
