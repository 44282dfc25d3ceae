"""Likelihoods of reviews under prompts, and probabilities of stars, spread over all processes.

A prompt is computed once, whatever number of reviews and stars are asked of it: all of them are neighbours in one
prefix tree.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch.distributed as dist

from persona.errors import PersonaError
from persona.evaluation.metrics.stars import why_no_stars
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.pairs import Ids, Pairs, score_pairs
from persona.modeling.packing import TokenTable
from persona.modeling.prefix_tree import Ints
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.tokenization.chat import chat_frame, encode

# How stars are asked for: where the model was trained to write them, by a question of its own, or not at all.
Stars = Literal["trained", "asked"] | None
STARS = ["1", "2", "3", "4", "5"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CohortFiles:
    """What a cohort is read from.

    Attributes:
        tokens: of its own prompts.
        empty_tokens: of its prompts that tell nothing of a user. Without them, only its own prompts are scored.
        impostor_tokens: of the prompts of `targets.impostor_pairs`, if prompts show a conversation.
    """

    tokens: Path
    empty_tokens: Path | None
    impostor_tokens: Path | None = None


def score_cohort(
    model: EvaluatedModel,
    cohort: str,
    files: CohortFiles,
    targets: pl.DataFrame,
    max_tokens: int,
    cues: tuple[str, str | None],
    work: ResumableWork,
) -> pl.DataFrame:
    """Score the targets of a cohort.

    Args:
        targets: `schemas.TARGETS`; the users of a block are each other's impostors. An impostor's prompt is that of
            `impostor_tokens`, or the impostor's own one where that has none for the target.
        max_tokens: of a packed row.
        cues: the last line of the prompts, and the one that asks for the stars instead, if there is one. The stars of
            a model that was trained to write them before the text are read there, without that question. Another model
            was not trained on it: it is a zero-shot probe.
        work: where finished rows are kept until all is done.

    Returns:
        The columns of `schemas.SCORES`. Likelihoods are of the texts, given the line of the stars where there is one.
    """
    tokens = read_table(files.tokens, schemas.TOKENS).sort("interaction_id")
    known = tokens.select("interaction_id").join(
        targets.filter(pl.col("cohort") == cohort), on="interaction_id", how="left", maintain_order="left"
    )
    _check_targets(files.tokens, known, cohort, targets)
    impostors = _impostors(known["block"] if files.empty_tokens else pl.repeat(None, known.height, eager=True))
    given = star_line_lengths(tokens)
    stars_trained = model.is_trained and any(given)
    asks_stars = bool(files.empty_tokens and (stars_trained or cues[1]) and may_ask_stars(targets["rating"]))
    stars: Stars = ("trained" if stars_trained else "asked") if asks_stars else None
    prompts, completions, requests = _questions(model, tokens, impostors, files, cues, stars)
    pairs = Pairs(prompts, completions, np.concatenate(requests), given + [0] * (len(completions) - len(given)))
    nll = score_pairs(model, pairs, max_tokens, work, cohort)
    own, under_others, under_none, of_stars = np.split(nll, np.cumsum([len(asked) for asked in requests])[:-1])
    ids = tokens["interaction_id"].to_numpy()
    scored = known.select(
        "interaction_id",
        "user_id",
        "item_id",
        "cohort",
        n_characters=pl.col("text").str.len_chars(),
        n_tokens=tokens["input_ids"].list.len() - tokens["text_start"],
        nll=pl.Series(own),
        impostor_ids=_lists([ids[i] for i in impostors], pl.Int64) if files.empty_tokens else pl.lit(None),
        nll_impostors=_lists(_like(impostors, under_others), pl.Float64) if files.empty_tokens else pl.lit(None),
        nll_empty=pl.Series(under_none) if files.empty_tokens else pl.lit(None),
        # The five need not add up to 1.
        stars=_lists(list(np.exp(-of_stars).reshape(-1, len(STARS))), pl.Float64) if asks_stars else pl.lit(None),
        stars_trained=pl.lit(stars_trained),
    )
    return scored.select(pl.col(name).cast(dtype) for name, dtype in schemas.SCORES.columns.items())


def _check_targets(tokens: Path, known: pl.DataFrame, cohort: str, targets: pl.DataFrame) -> None:
    """Check that tokens are those of the cohort's targets, of which all models must be asked.

    Raises:
        PersonaError: they are not.
    """
    n_targets = targets.filter(pl.col("cohort") == cohort).height
    if known["cohort"].null_count() or known.height != n_targets:
        raise PersonaError(
            f"{tokens}: has {known.height:,} targets, not the {n_targets:,} of {cohort} that other models are scored "
            "on: some fit one model or prompt and not another; `snakemake prepare_all` names them"
        )


def _questions(
    model: EvaluatedModel,
    tokens: pl.DataFrame,
    impostors: list[Ints],
    files: CohortFiles,
    cues: tuple[str, str | None],
    stars: Stars,
) -> tuple[list[Ids], list[Ids], list[Ints]]:
    """All prompts and completions of a cohort, and what is asked of them; see `_requests`."""
    prompts, completions = _split(tokens)
    if files.empty_tokens:
        # A target that does not fit with its user's profile may fit without.
        empty = tokens.select("interaction_id").join(
            read_table(files.empty_tokens, schemas.TOKENS), on="interaction_id", how="left", maintain_order="left"
        )
        prompts += _split(empty)[0]
    # Stars that were trained are asked for by the targets' own prompts.
    star_prompts = {"trained": 0, "asked": len(prompts), None: None}[stars]
    if stars == "asked":
        prompts += ask_for_stars(model.tokenizer, prompts[: tokens.height], (cues[0], str(cues[1])))
    if stars:
        completions += star_completions(model.tokenizer, stars == "trained")
    under = np.concatenate(impostors)
    if files.impostor_tokens:
        rendered = read_table(files.impostor_tokens, schemas.TOKENS)
        under = _rendered_prompts(tokens, impostors, rendered, len(prompts))
        prompts += _split(rendered)[0]
    return prompts, completions, _requests(impostors, under, files.empty_tokens is not None, star_prompts)


def _rendered_prompts(tokens: pl.DataFrame, impostors: list[Ints], rendered: pl.DataFrame, first: int) -> Ints:
    """The numbers of the prompts with impostors, one target after the other.

    They are counted from `first` in `rendered`; an impostor that is not there keeps the number of its own prompt.
    """
    own = np.concatenate(impostors)
    target = np.repeat(np.arange(len(impostors)), [len(others) for others in impostors])
    asked = pl.DataFrame({"interaction_id": tokens["interaction_id"].gather(target), "own": own}).with_columns(
        tokens["user_id"].gather(own)
    )
    numbers = rendered.select("interaction_id", "user_id", number=first + pl.int_range(pl.len(), dtype=pl.Int64))
    found = asked.join(numbers, on=["interaction_id", "user_id"], how="left", maintain_order="left")
    return found.select(pl.coalesce("number", "own")).to_series().to_numpy()


def star_line_lengths(tokens: pl.DataFrame) -> list[int]:
    """Tokens of the line of stars before each text, 0 where there is none."""
    return (tokens["text_start"] - tokens["prompt_length"]).to_list()


def may_ask_stars(ratings: pl.Series) -> bool:
    """Whether there are ratings and all are stars; the log says it if some are not."""
    reason = why_no_stars(ratings)
    if reason and dist.get_rank() == 0:
        logger.info(reason)
    return bool(ratings.count()) and reason is None


def star_completions(tokenizer: Any, trained: bool) -> list[Ids]:
    """The tokens of each star: its whole line where it is trained, else the first token of its digit."""
    lines = encode(tokenizer, [f"{star}\n" if trained else star for star in STARS], special=False)
    return [np.array(ids if trained else ids[:1]) for ids in lines]


def _requests(impostors: list[Ints], under: Ints, under_none: bool, star_prompts: int | None) -> list[Ints]:
    """What is asked, each as numbers of prompt and completion `[N, 2]`.

    Prompts are those of the targets, the empty ones, those that ask for stars and those with impostors, completions the
    targets' and the five stars: each target's own text under its own prompt, under its impostors' and under the empty
    one, and each star.

    Args:
        under: the prompts with impostors, one target after the other.
        star_prompts: the number of the first prompt that asks for stars; None asks for none.
    """
    n = len(impostors)
    own = np.arange(n)
    asked: list[list[Any]] = [
        [own, own],
        [under, np.repeat(own, [len(others) for others in impostors])],
        [n + own, own] if under_none else [[], []],
        [[], []]
        if star_prompts is None
        else [star_prompts + np.repeat(own, len(STARS)), n + np.tile(np.arange(len(STARS)), n)],
    ]
    return [np.column_stack(columns).astype(np.int64) for columns in asked]


def _like(lists: list[Ints], values: Ints) -> list[Ints]:
    """Values one after the other in lists of these lengths."""
    return np.split(values, np.cumsum([len(each) for each in lists])[:-1])


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


def _impostors(blocks: pl.Series) -> list[Ints]:
    """For every target the numbers of the others of its block."""
    members: dict[int, list[int]] = {}
    for n, block in enumerate(blocks):
        if block is not None:
            members.setdefault(block, []).append(n)
    return [
        np.array([m for m in members[block] if m != n] if block is not None else [], dtype=np.int64)
        for n, block in enumerate(blocks)
    ]


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
