"""Attention document by document: each target of a packed row attends to itself alone, without a mask.

A dense block-diagonal mask makes torch's attention compute the square of the whole row. Cut at the documents
it computes the square of each, the same numbers and less work. FlashAttention does so by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BY_DOCUMENT = "by_document"


def attend_by_document(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    document_lengths: list[int] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of queries, keys and values `[1, heads, T, width]` whose documents have lengths that sum to T.

    Without `document_lengths` (generation, padded batches) it is torch's attention with its mask.
    """
    if document_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    documents = zip(*(torch.split(states, document_lengths, dim=2) for states in (query, key, value)), strict=True)
    # Without a mask it is causal.
    parts = [sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in documents]
    return torch.cat(parts, dim=1), None


ALL_ATTENTION_FUNCTIONS.register(BY_DOCUMENT, attend_by_document)
ALL_MASK_ATTENTION_FUNCTIONS.register(BY_DOCUMENT, sdpa_mask)
