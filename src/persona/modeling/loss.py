"""The definition of the loss: negative log-likelihood of the completion tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from persona.errors import PersonaError
from persona.modeling.attention import BY_PREFIX, block_mask, bucketed, flex_attention_works
from persona.modeling.packing import Row
from persona.modeling.prefix_tree import Ints, Layout

CHUNK = 1024


class CompletionLoss(nn.Module):
    """A causal language model that returns the NLL of each completion token instead of logits.

    Only the hidden states that predict a completion token go through the head, `CHUNK` at a time and
    recomputed in the backward pass, so the memory of the logits is at most `CHUNK` x vocabulary. The chunks
    run inside one call of the head's module, because ZeRO-3 gathers its weight once per call.

    The model itself stays as it is: called directly, it returns logits, and it can generate.
    """

    def __init__(self, model: Any) -> None:
        """Wrap a model.

        Raises:
            PersonaError: its head has a bias.
        """
        super().__init__()
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            raise PersonaError(
                f"{model.config._name_or_path}: the model's head has a bias; its architecture is not supported"
            )
        self.model = model

    def forward(self, row: Row) -> torch.Tensor:
        """Negative log-likelihood in nats of each of the row's labels, `[N]` float32."""
        row, tree = self._with_tree(row)
        output = self.model.base_model(
            input_ids=row.input_ids,
            position_ids=row.position_ids,
            use_cache=False,
            # Other implementations find the samples by their positions, as long as they get no mask. `BY_PREFIX`
            # needs no mask; transformers does not build one when it is given one of four dimensions.
            attention_mask=row.input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool) if tree is not None else None,
            tree=tree,
            **(flash_arguments(row) if self.model.config._attn_implementation == "flash_attention_2" else {}),
        )
        return self.head_nll(output.last_hidden_state[0, row.positions], row.labels)

    def head_nll(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood `[N]` of labels `[N]` under hidden states `[N, width]`."""
        head = self.model.get_output_embeddings()
        # The weight is read within the call: before it ZeRO-3 has not gathered it.
        with _replaced_forward(head, lambda states, targets: chunked_nll(head.weight, states, targets)):
            nll: torch.Tensor = head(hidden, labels)
        return nll

    def difference_from_plain(self, row: Row, documents: list[tuple[Ints, int]]) -> float:
        """How far this is from what the model itself computes: the mean absolute difference of a token's NLL, in nats.

        A model that scales or bounds its logits, or does not hand on what tokens attend to, would be computed wrongly.

        Args:
            row: some samples.
            documents: the tokens of each sample, in the row's order, and how many of them are the prompt.
        """
        was_training, attention = self.training, self.model.config._attn_implementation
        self.eval()
        with torch.no_grad():
            here = self(row)
            self.model.set_attn_implementation("sdpa")
            # As calls of this module, so that ZeRO-3's hooks see whole forward passes.
            with _replaced_forward(self, self._plain_nll):
                plain = [self(torch.tensor(ids).to(row.input_ids), prompt) for ids, prompt in documents]
        self.model.set_attn_implementation(attention)
        self.train(was_training)
        return float((here - torch.cat(plain)).abs().mean())

    def _plain_nll(self, ids: torch.Tensor, prompt: int) -> torch.Tensor:
        n = len(ids) - prompt
        logits = self.model(input_ids=ids[None, :-1], use_cache=False, logits_to_keep=n).logits[0, -n:]
        return functional.cross_entropy(logits.float(), ids[prompt:].long(), reduction="none")

    def _with_tree(self, row: Row) -> tuple[Row, Layout | BlockMask | None]:
        """The row, padded if need be, and what its tokens attend to; None if the attention does not support trees."""
        device = row.input_ids.device
        if self.model.config._attn_implementation != BY_PREFIX:
            if row.layout.branches:
                raise ValueError(f"samples of a row that share tokens need the attention {BY_PREFIX!r}")
            return row, None
        if not row.layout.branches or not flex_attention_works(device, head_width(self.model.config)):
            return row, row.layout
        row = row.padded(bucketed(row.input_ids.shape[1]))
        return row, block_mask(row.layout, row.input_ids.shape[1], device)


def flash_arguments(row: Row) -> dict[str, Any]:
    """Where the samples of a row begin, for FlashAttention, which would ask the GPU for it in every layer."""
    starts = np.concatenate([[0], np.cumsum(row.layout.runs)])
    starts_on_device = torch.from_numpy(starts.astype(np.int32)).to(row.input_ids.device)
    longest = max(row.layout.runs)
    return {
        "cu_seq_lens_q": starts_on_device,
        "cu_seq_lens_k": starts_on_device,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def head_width(config: Any) -> int:
    """Width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Let a module compute something else within the block; its hooks still run."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def chunked_nll(weight: torch.Tensor, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """NLL `[N]` of labels `[N]` under hidden states `[N, width]` and a head `[vocabulary, width]`."""
    chunks = zip(torch.split(hidden, CHUNK), torch.split(labels, CHUNK), strict=True)
    return torch.cat([checkpoint(_nll, weight, h, l, use_reentrant=False) for h, l in chunks])


def _nll(weight: torch.Tensor, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(functional.linear(hidden, weight).float(), labels, reduction="none")
