"""What moves the likelihood of a text: each history entry and each profile field is left out in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from persona.inference.question import Question, render_question
from persona.inference.writer import Completion, Prompt, Writer
from persona.prompts import PARTS
from persona.tokenization.tokenize import trimmed_prompt, without_entry

WHOLE = "all of it"


@dataclass(frozen=True)
class Effect:
    """What the text loses without something.

    Attributes:
        part: `profile`, `history` or `context`.
        what: the field or the entry, or `WHOLE`.
        nats: negative log-likelihood without it minus that with it. Above 0 it makes the text likelier.
    """

    part: str
    what: str
    nats: float


@dataclass(frozen=True)
class Explanation:
    """The effects on the likelihood of a text, whole parts first.

    Attributes:
        nll: of the text under the whole prompt, in nats.
        rounding: by how many nats the same likelihood differs when it is computed alone; a difference that is not
            much larger may be rounding.
    """

    text: str
    nll: float
    effects: list[Effect]
    rounding: float


def explain(
    writer: Writer, question: Question, prompt: Prompt, completion: Completion, without: frozenset[str]
) -> Explanation:
    """Score a text under the prompt, and under the same prompt without each thing that it shows.

    All else stays: what was dropped for lack of room stays dropped, and the numbers of the history entries stay. All
    prompts are computed as one prefix tree, so what they have in common is computed once.

    Args:
        without: the parts that the prompt is asked without.
    """
    changed = shorter_prompts(writer, question, prompt, without)
    prompts = [prompt.ids, *(writer.framed(text) for _, _, text in changed)]
    nll, *others = (score.nll for score in writer.score(prompts, completion))
    effects = [Effect(part, what, other - nll) for (part, what, _), other in zip(changed, others, strict=True)]
    alone = writer.score([prompt.ids], completion)[0].nll
    return Explanation(completion.text, nll, effects, abs(alone - nll))


def shorter_prompts(
    writer: Writer, question: Question, prompt: Prompt, without: frozenset[str]
) -> list[tuple[str, str, str]]:
    """Part, what is left out, and the prompt without it."""
    shown = [part for part in PARTS if getattr(writer.stage.spec.parts, part) and part not in without]
    whole = [(part, WHOLE, _trimmed_alike(writer, question, prompt, without | {part})) for part in shown]
    fields = [
        (
            "profile",
            f"{field['field'].upper()}={field['value']}",
            _trimmed_alike(writer, _without_field(question, field), prompt, without),
        )
        for field in (question.profile if "profile" in shown else [])
    ]
    entries = _without_entries(prompt) if "history" in shown else []
    # Of a part with a single entry both would say the same.
    several = {part for part, found in (("profile", fields), ("history", entries)) if len(found) != 1}
    several |= {"context"}
    chosen = [*(each for each in whole if each[0] in several), *fields, *entries]
    return [each for each in chosen if each[2] != prompt.text]


def _trimmed_alike(writer: Writer, question: Question, prompt: Prompt, without: frozenset[str]) -> str:
    """Another prompt for the question, with as much dropped as was dropped of the prompt."""
    other = render_question(question, writer.stage, without).row(0, named=True)
    dropped = {name: prompt.row[name] for name in ("n_history_dropped", "n_context_dropped")}
    if not other["history_ids"]:
        dropped["n_history_dropped"] = other["n_history_left_out"]
    if not other["context_offsets"]:
        dropped["n_context_dropped"] = 0
    return trimmed_prompt(other | dropped)


def _without_field(question: Question, field: dict[str, str]) -> Question:
    kept = [other for other in question.profile if other != field]
    return replace(
        question, users=question.users.with_columns(profile=pl.Series([kept], dtype=question.users["profile"].dtype))
    )


def _without_entries(prompt: Prompt) -> list[tuple[str, str, str]]:
    row: dict[str, Any] = prompt.row
    offsets = row["history_offsets"]
    first = len(row["history_ids"]) - prompt.n_history
    return [
        (
            "history",
            row["prompt"][offsets[n + 1] : offsets[n + 2]].strip(),
            trimmed_prompt(without_entry(row, "history", n)),
        )
        for n in range(first, len(row["history_ids"]))
    ]
