"""Likelihoods of reviews under prompts, and probabilities of stars, spread over all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import torch.distributed as dist

from persona import artefacts
from persona.errors import PersonaError
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import Row, TokenTable, balance, fill_rows, pack_row
from persona.progress import progress_bar
from persona.tokenization import chat_frame, encode

STARS = ["1", "2", "3", "4", "5"]
WINDOW = 512  # documents that are packed together

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CohortFiles:
    """What a cohort is read from; `empty_tokens` are its prompts that tell nothing of a user."""

    tokens: Path
    empty_tokens: Path | None


class Pairs:
    """Distinct (prompt, completion) pairs, and for each request the pair that answers it.

    Prompts that are the same tokens are one prompt, so nothing is scored twice.
    """

    def __init__(self, prompts: list[Ids], completions: list[Ids], requests: npt.NDArray[np.int64]) -> None:
        """`requests` `[N, 2]` are numbers of a prompt and a completion."""
        numbers: dict[bytes, int] = {}
        same = np.array([numbers.setdefault(p.tobytes(), len(numbers)) for p in prompts], dtype=np.int64)
        first = np.unique(same, return_index=True)[1]
        asked = np.column_stack([same[requests[:, 0]], requests[:, 1]])
        distinct, self.answers = np.unique(asked, axis=0, return_inverse=True)
        self.prompts, self.completions = prompts, completions
        self.pairs = np.column_stack([first[distinct[:, 0]], distinct[:, 1]])
        self.lengths = np.array([len(prompts[p]) + len(completions[c]) for p, c in self.pairs], dtype=np.int64)

    def row(self, members: list[int]) -> Row:
        """Some pairs as one packed row, whose targets count from 0."""
        documents = [(self.prompts[p], self.completions[c]) for p, c in self.pairs[members]]
        ids = [np.concatenate(document) for document in documents]
        table = TokenTable(
            ids=np.concatenate(ids),
            starts=np.concatenate([[0], np.cumsum([len(i) for i in ids])]),
            prompt_lengths=np.array([len(prompt) for prompt, _ in documents], dtype=np.int32),
        )
        return pack_row(table, list(range(len(members))))


def score_cohort(
    model: CompletionLoss,
    tokenizer: Any,
    cohort: str,
    files: CohortFiles,
    targets: pl.DataFrame,
    max_tokens: int,
    cues: tuple[str, str | None],
) -> pl.DataFrame:
    """Score the targets of a cohort.

    Args:
        targets: `artefacts.TARGETS`; targets of one block are scored under each other's prompts.
        max_tokens: of a packed row.
        cues: the last line of the prompts, and the one that asks for the stars instead, if there is one.

    Returns:
        The columns of `artefacts.SCORES`.
    """
    tokens = artefacts.read_table(files.tokens, artefacts.TOKENS).sort("interaction_id")
    prompts, completions = _split(tokens)
    known = tokens.select("interaction_id").join(
        targets.filter(pl.col("cohort") == cohort), on="interaction_id", how="left", maintain_order="left"
    )
    impostors = _impostors(known["block"])
    requests = [(n, n) for n in range(len(prompts))]
    requests += [(other, n) for n, others in enumerate(impostors) for other in others]
    if files.empty_tokens:
        empty, _ = _split(artefacts.read_table(files.empty_tokens, artefacts.TOKENS).sort("interaction_id"))
        requests += [(len(prompts) + n, n) for n in range(len(prompts))]
        prompts = prompts + empty
    nll = score_pairs(model, Pairs(prompts, completions, np.array(requests)), max_tokens, f"scoring {cohort}")
    n, n_impostors = len(completions), sum(map(len, impostors))
    under_others = np.split(nll[n : n + n_impostors], np.cumsum([len(i) for i in impostors])[:-1])
    ids = tokens["interaction_id"].to_numpy()
    stars = None
    if files.empty_tokens and known["rating"].count() and cues[1]:
        stars = score_stars(model, tokenizer, prompts[:n], (cues[0], cues[1]), max_tokens)
    scored = known.select(
        "interaction_id",
        "user_id",
        "item_id",
        "cohort",
        n_characters=pl.col("text").str.len_chars(),
        n_tokens=pl.Series([len(c) for c in completions]),
        nll=pl.Series(nll[:n]),
        impostor_ids=_lists([ids[i] for i in impostors], pl.Int64) if files.empty_tokens else pl.lit(None),
        nll_impostors=_lists(under_others, pl.Float64) if files.empty_tokens else pl.lit(None),
        nll_empty=pl.Series(nll[n + n_impostors :], dtype=pl.Float64) if files.empty_tokens else pl.lit(None),
        stars=_lists(list(stars), pl.Float64) if stars is not None else pl.lit(None),
    )
    return scored.select(pl.col(name).cast(dtype) for name, dtype in artefacts.SCORES.columns.items())


def _lists(arrays: list[Any], dtype: Any) -> pl.Series:
    return pl.Series([array.tolist() for array in arrays], dtype=pl.List(dtype))


def _split(tokens: pl.DataFrame) -> tuple[list[Ids], list[Ids]]:
    """Prompts and completions of a table of tokens."""
    table = TokenTable.from_frame(tokens)
    ends = table.starts[:-1] + table.prompt_lengths
    return (
        [table.ids[a:b] for a, b in zip(table.starts[:-1], ends, strict=True)],
        [table.ids[a:b] for a, b in zip(ends, table.starts[1:], strict=True)],
    )


def _impostors(blocks: pl.Series) -> list[npt.NDArray[np.int64]]:
    """For every target the numbers of the others of its block."""
    members: dict[int, list[int]] = {}
    for n, block in enumerate(blocks):
        if block is not None:
            members.setdefault(block, []).append(n)
    return [
        np.array([m for m in members[block] if m != n] if block is not None else [], dtype=np.int64)
        for n, block in enumerate(blocks)
    ]


def score_pairs(model: CompletionLoss, pairs: Pairs, max_tokens: int, what: str) -> Floats:
    """Negative log-likelihood in nats of every request `[N]`. Every process gets all of them."""

    def score(members: list[int]) -> Floats:
        row = pairs.row(members).to(model.model.device)
        nll = torch.zeros(len(members), dtype=torch.float64, device=row.targets.device)
        return np.asarray(nll.index_add_(0, row.targets, model(row).double()).cpu())

    distinct = _over_processes(score, pairs.lengths, max_tokens, 1, what)
    return np.asarray(distinct[pairs.answers, 0])


def score_stars(
    model: CompletionLoss, tokenizer: Any, prompts: list[Ids], cues: tuple[str, str], max_tokens: int
) -> Floats:
    """Probabilities `[N, 5]` of the five stars as the answer to the prompts with another last line.

    A model that writes reviews was not trained on that question: it is a zero-shot probe. The five need not
    add up to 1.
    """
    answers = [ids[0] for ids in encode(tokenizer, STARS, special=False)]
    questions = ask_for_stars(tokenizer, prompts, cues)
    lengths = np.array([len(question) for question in questions], dtype=np.int64)

    def score(members: list[int]) -> Floats:
        row = _question_row([questions[m] for m in members], answers).to(model.model.device)
        return np.asarray(torch.exp(-model(row).double()).cpu()).reshape(len(members), len(STARS))

    return _over_processes(score, lengths, max_tokens, len(STARS), "scoring stars")


def ask_for_stars(tokenizer: Any, prompts: list[Ids], cues: tuple[str, str]) -> list[Ids]:
    """Tokenized prompts with their last line replaced.

    Raises:
        PersonaError: a prompt does not end with the cue.
    """
    between = encode(tokenizer, [chat_frame(tokenizer).between], special=True)[0]
    old, new = (np.array(ids + between, dtype=np.int32) for ids in encode(tokenizer, list(cues), special=False))
    for prompt in prompts:
        if not np.array_equal(prompt[-len(old) :], old):
            raise PersonaError(f"the prompts do not end with the cue {cues[0]!r}; rerun the step `tokenize`")
    return [np.concatenate([prompt[: -len(old)], new]) for prompt in prompts]


def _question_row(questions: list[Ids], answers: list[int]) -> Row:
    """Questions one after the other; each answer is a label at the last token of each question."""
    lengths = [len(question) for question in questions]
    last = np.cumsum(lengths) - 1
    return Row(
        input_ids=torch.from_numpy(np.concatenate(questions).astype(np.int64))[None],
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        positions=torch.from_numpy(np.repeat(last, len(answers))),
        labels=torch.tensor(answers).repeat(len(questions)),
        targets=torch.arange(len(questions)).repeat_interleave(len(answers)),
        document_lengths=lengths,
    )


def _over_processes(
    score: Callable[[list[int]], Floats], lengths: npt.NDArray[np.int64], max_tokens: int, width: int, what: str
) -> Floats:
    """Documents shared out by tokens and packed; each process scores its own, and all get all `[N, width]`."""
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = balance(lengths, world)[rank]
    scored = np.zeros((len(lengths), width))
    bar = progress_bar(len(mine), 0, what, "text") if rank == 0 else None
    with torch.inference_mode():
        for start in range(0, len(mine), WINDOW):
            window = mine[start : start + WINDOW]
            for members in fill_rows(lengths, window, max_tokens):
                scored[members] = score(members).reshape(len(members), width)
            if bar is not None:
                bar.update(len(window))
    if bar is not None:
        bar.close()
    # Every document is scored by one process and 0 in all others.
    total = torch.from_numpy(scored)
    if torch.cuda.is_available():
        total = total.cuda()
    dist.all_reduce(total)
    summed: Floats = total.cpu().numpy()
    return summed
