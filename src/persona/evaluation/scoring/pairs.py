"""Likelihoods of distinct (prompt, completion) pairs, computed as one prefix tree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import Row, TokenTable, pack_row
from persona.modeling.prefix_tree import Ints, PrefixOrder, common_prefix, sort_key
from persona.progress import progress_bar

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


class Pairs:
    """Distinct (prompt, completion) pairs, and for each request the one that answers it.

    Prompts that are the same tokens are one prompt, so nothing is scored twice. Pairs are in the order of their prompts
    and then of their completions; as a chat template ends every prompt alike, that is the order of their tokens.
    """

    def __init__(self, prompts: list[Ids], completions: list[Ids], requests: npt.NDArray[np.int64]) -> None:
        """`requests` `[N, 2]` are numbers of a prompt and a completion."""
        (self.prompts, prompt), (self.completions, completion) = _distinct(prompts), _distinct(completions)
        asked = np.column_stack([prompt[requests[:, 0]], completion[requests[:, 1]]])
        self.pairs, self.answers = np.unique(asked, axis=0, return_inverse=True)
        # The last token predicts nothing and is not computed.
        lengths = np.array([len(self.prompts[p]) + len(self.completions[c]) - 1 for p, c in self.pairs])
        common = np.array([0, *map(self._common_prefix, self.pairs[:-1], self.pairs[1:])])
        shared = np.minimum(common, np.minimum(lengths, np.roll(lengths, 1)))
        self.order = PrefixOrder(np.arange(len(self.pairs)), lengths, shared)

    def _common_prefix(self, one: Ints, other: Ints) -> int:
        if one[0] != other[0]:
            return common_prefix(self.prompts[one[0]], self.prompts[other[0]])
        return len(self.prompts[one[0]]) + common_prefix(self.completions[one[1]], self.completions[other[1]])

    def row(self, start: int, stop: int) -> Row:
        """Some neighbouring pairs as one row."""
        documents = [(self.prompts[p], self.completions[c]) for p, c in self.pairs[start:stop]]
        ids = [np.concatenate(document) for document in documents]
        table = TokenTable(
            ids=np.concatenate(ids),
            starts=np.concatenate([[0], np.cumsum([len(i) for i in ids])]),
            prompt_lengths=np.array([len(prompt) for prompt, _ in documents], dtype=np.int32),
            users=np.zeros(len(documents), dtype=np.int64),
        )
        return pack_row(table, range(stop - start), self.order.shared_within(start, stop))


def _distinct(texts: list[Ids]) -> tuple[list[Ids], Ints]:
    """The distinct texts in the order of their tokens, and for each text which of them it is."""
    keys = [sort_key(text) for text in texts]
    distinct = sorted(set(keys))
    number = {key: n for n, key in enumerate(distinct)}
    return [np.frombuffer(key, dtype=">i4") for key in distinct], np.array([number[key] for key in keys])


def score_pairs(model: CompletionLoss, pairs: Pairs, max_tokens: int, what: str) -> Floats:
    """Negative log-likelihood in nats of every request `[N]`. Every process gets all of them."""
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = pairs.order.cut(max_tokens, world)[rank::world]
    scored = torch.zeros(len(pairs.pairs), dtype=torch.float64, device=model.model.device)
    bar = progress_bar(sum(stop - start for start, stop in mine), 0, what, "text", is_shown=rank == 0)
    with torch.inference_mode():
        for start, stop in mine:
            row = pairs.row(start, stop).to(model.model.device)
            scored.index_add_(0, start + row.samples, model(row).double())
            bar.update(stop - start)
    bar.close()
    # Every pair is scored by one process and 0 in all others.
    dist.all_reduce(scored)
    return np.asarray(scored.cpu())[pairs.answers]
