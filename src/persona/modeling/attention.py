"""Attention within the prefix trees of a row: each token attends to its ancestors and itself alone.

On a GPU FlexAttention (Dong et al. 2024, arXiv:2412.05496) skips the blocks of the row's square that nothing attends
to. Elsewhere torch's attention is called once a run, on the pieces that the run sees. A dense mask over the
row would compute its square, see docs/performance.md. A packed row is the case of runs that share nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from persona.modeling.prefix_tree import Layout

BY_PREFIX = "by_prefix"


@dataclass(frozen=True)
class RunMasks:
    """For attention run by run: the layout, and for each run what it sees `[run, seen]`, None where that is causal."""

    layout: Layout
    masks: list[torch.Tensor | None]

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> RunMasks:
        masks = []
        for run, seen in zip(layout.runs, layout.seen, strict=True):
            n_seen = sum(layout.pieces[piece] for piece in seen)
            causal = torch.ones(run, n_seen, dtype=torch.bool, device=device).tril(n_seen - run)
            masks.append(causal if n_seen > run else None)
        return cls(layout, masks)


TreeMask = RunMasks | BlockMask


def attend_by_prefix(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    tree_mask: TreeMask | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of queries, keys and values `[1, heads, T, width]` of one row.

    Without `tree_mask` (generation, padded batches) it is torch's attention with its mask.
    """
    if tree_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    if isinstance(tree_mask, BlockMask):
        attend: Any = compiled_flex_attention() if query.is_cuda else flex_attention
        found = attend(query, key, value, block_mask=tree_mask, scale=options["scaling"], enable_gqa=True)
        return found.transpose(1, 2).contiguous(), None
    return _attend_run_by_run(query, key, value, tree_mask, options["scaling"], options.get("dropout", 0.0)), None


def _attend_run_by_run(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tree: RunMasks, scale: float, dropout: float
) -> torch.Tensor:
    """The output `[1, T, heads, width]`."""
    keys, values = (torch.split(states, tree.layout.pieces, dim=2) for states in (key, value))
    found = []
    for q, seen, mask in zip(torch.split(query, tree.layout.runs, dim=2), tree.layout.seen, tree.masks, strict=True):
        k, v = (torch.cat([states[piece] for piece in seen], dim=2) for states in (keys, values))
        found.append(
            functional.scaled_dot_product_attention(
                q, k, v, mask, dropout_p=dropout, is_causal=mask is None, scale=scale, enable_gqa=True
            )
        )
    return torch.cat(found, dim=2).transpose(1, 2).contiguous()


def block_mask(layout: Layout, length: int, device: torch.device) -> BlockMask:
    """FlexAttention's mask of a row that is padded to a length; padding sees and is seen by itself alone."""
    ends = torch.arange(1, length + 1, device=device)
    ends[: len(layout.ends)] = torch.from_numpy(layout.ends).to(device)

    def sees(_batch: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    return create_block_mask(sees, None, None, length, length, device=str(device))


def bucketed(n_tokens: int) -> int:
    """A length to pad a row to: kernels are compiled once a length, so there are four to each power of two."""
    step = max(128, 1 << max(0, math.ceil(math.log2(n_tokens)) - 3))
    return math.ceil(n_tokens / step) * step


def flex_attention_works() -> bool:
    """Whether FlexAttention can run here with a backward pass: on a GPU, with the compiler that it needs."""
    from torch.utils._triton import has_triton

    return torch.cuda.is_available() and has_triton()


@lru_cache(maxsize=1)
def compiled_flex_attention() -> Any:
    # More than its 8, or the lengths of further buckets would run uncompiled, on the whole square.
    torch._dynamo.config.recompile_limit = 256
    return torch.compile(flex_attention, dynamic=False)


ALL_ATTENTION_FUNCTIONS.register(BY_PREFIX, attend_by_prefix)
ALL_MASK_ATTENTION_FUNCTIONS.register(BY_PREFIX, sdpa_mask)
