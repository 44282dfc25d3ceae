"""Likelihoods of distinct (prompt, completion) pairs, computed as one prefix tree."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork, Task
from persona.modeling.packing import Row, TokenTable, pack_row
from persona.modeling.prefix_tree import Ints, PrefixOrder, common_prefix, sort_key

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


class Pairs:
    """Distinct (prompt, completion) pairs, and for each request the one that answers it.

    Prompts that are the same tokens are one prompt, so nothing is scored twice. Pairs are in the order of their prompts
    and then of their completions; as a chat template ends every prompt alike, that is the order of their tokens.
    The first tokens of a completion may be given. Then the likelihood is that of the rest, after the prompt and them.
    """

    def __init__(
        self,
        prompts: list[Ids],
        completions: list[Ids],
        requests: npt.NDArray[np.int64],
        given: list[int] | None = None,
    ) -> None:
        """Collect what is asked.

        Args:
            requests: `[N, 2]`, numbers of a prompt and a completion.
            given: of each completion the number of first tokens that are given; 0 by default.
        """
        self.prompts, _, prompt = _distinct(prompts, [0] * len(prompts))
        self.completions, self.given, completion = _distinct(completions, given or [0] * len(completions))
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

    def n_tokens(self, start: int, stop: int) -> int:
        """The number of tokens that are computed for some neighbouring pairs."""
        return int(self.order.lengths[start:stop].sum()) - sum(self.order.shared_within(start, stop))

    def digest(self) -> str:
        """A digest of all pairs, in hexadecimal."""
        digest = hashlib.sha256(self.pairs.astype("<i8").tobytes())
        digest.update(np.array(self.given, dtype="<i8").tobytes())
        for text in [*self.prompts, *self.completions]:
            digest.update(len(text).to_bytes(8) + text.tobytes())
        return digest.hexdigest()

    def row(self, start: int, stop: int) -> Row:
        """Some neighbouring pairs as one row."""
        documents = [(self.prompts[p], self.completions[c]) for p, c in self.pairs[start:stop]]
        ids = [np.concatenate(document) for document in documents]
        table = TokenTable(
            ids=np.concatenate(ids),
            starts=np.concatenate([[0], np.cumsum([len(i) for i in ids])]),
            # To the model, what is given is part of the prompt.
            prompt_lengths=np.array(
                [len(self.prompts[p]) + self.given[c] for p, c in self.pairs[start:stop]], dtype=np.int32
            ),
            users=np.zeros(len(documents), dtype=np.int64),
        )
        return pack_row(table, range(stop - start), self.order.shared_within(start, stop))


def _distinct(texts: list[Ids], given: list[int]) -> tuple[list[Ids], list[int], Ints]:
    """The distinct texts in the order of their tokens, what of each is given, and for each text which of them it is."""
    keys = [(sort_key(text), n) for text, n in zip(texts, given, strict=True)]
    distinct = sorted(set(keys))
    number = {key: n for n, key in enumerate(distinct)}
    ids = [np.frombuffer(key, dtype=">i4") for key, _ in distinct]
    return ids, [n for _, n in distinct], np.array([number[key] for key in keys])


def score_pairs(model: EvaluatedModel, pairs: Pairs, max_tokens: int, work: ResumableWork, cohort: str) -> Floats:
    """Negative log-likelihood in nats of every request `[N]`. Every process gets all of them.

    Args:
        max_tokens: of a row.
        work: where finished rows are kept until all is done.
        cohort: the name of what is scored.
    """
    rows = pairs.order.cut(max_tokens, dist.get_world_size())
    sizes = [pairs.n_tokens(start, stop) for start, stop in rows]

    def score_row(n: int) -> tuple[list[float], int]:
        start, stop = rows[n]
        row = pairs.row(start, stop)
        with torch.inference_mode():
            nll = model.loss(row.to(model.loss.model.device)).double().cpu()
        # Added up on the CPU, where the order is always the same.
        return np.bincount(row.samples.numpy(), nll.numpy(), stop - start).tolist(), sizes[n]

    task = Task(
        name=f"scores_{cohort}",
        what=f"scoring {cohort}",
        unit="token",
        sizes=sizes,
        fingerprint=[rows, pairs.digest()],
        prepare=lambda: model.loss,
        compute=score_row,
        together=model.expert_parallel > 1,
    )
    return np.concatenate([np.array(nll) for nll in work.results(task)])[pairs.answers]
