"""A trained stage that answers: what a user would write, how likely a text is, and which stars would come with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from persona.errors import PersonaError
from persona.evaluation.generation import generate_reviews
from persona.evaluation.metrics.stars import normalised, why_no_stars
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.cohort import STARS, ask_for_stars, star_completions
from persona.evaluation.scoring.pairs import Floats, Ids, Pairs, score_pairs
from persona.evaluation.settings import GREEDY, GenerationSettings
from persona.inference.question import Question, render_question
from persona.inference.room import require_room
from persona.modeling.loading import default_device
from persona.modeling.processes import process_group
from persona.study import Stage, Study
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.tokenization.chat import chat_frame, encode, frame_ids
from persona.tokenization.tokenize import tokenize, trimmed_prompt

# In a longer row more prompts share what they have in common. No gradients are kept, so it takes little memory.
ROW_TOKENS = 16_384


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    Attributes:
        row: `schemas.PROMPTS` and what was dropped of it.
        text: the prompt without what was dropped.
        ids: its tokens, with those of the chat template around it.
        n_history, n_dropped: earlier texts that it shows, and that it does not show for lack of room.
    """

    row: dict[str, Any]
    text: str
    ids: list[int]
    n_history: int
    n_dropped: int


@dataclass(frozen=True)
class Completion:
    """A text, and the line of the stars before it; empty where there is none. One that was cut off has no end."""

    text: str
    star_line: str = ""
    is_whole: bool = True


@dataclass(frozen=True)
class Draft:
    """A text that the model wrote, and the stars in the line before it, if it was trained to write them."""

    method: str
    text: str
    rating: float | None
    is_whole: bool

    @property
    def completion(self) -> Completion:
        """As the model wrote it."""
        return Completion(self.text, "" if self.rating is None else f"{self.rating:g}\n", self.is_whole)


@dataclass(frozen=True)
class Score:
    """How likely a text is: its negative log-likelihood in nats, of the text and its end."""

    text: str
    nll: float
    n_tokens: int

    @property
    def per_character(self) -> float:
        """Nats per character, as in the report."""
        return self.nll / max(1, len(self.text))


@contextmanager
def one_process() -> Iterator[None]:
    """What scoring and writing need around them: a process group, here of one process."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with process_group(deepspeed=False):
        yield


class Writer:
    """A trained stage, whose model is loaded when it is first needed. Use it within `one_process`."""

    def __init__(self, study: Study, stage: Stage) -> None:
        self.study, self.stage = study, stage
        # On the CPU in float32 whatever the recipe says: what a single entry moves is less than bfloat16 rounds.
        self.model = EvaluatedModel(str(stage.model))

    def load(self) -> None:
        """Load the weights.

        Raises:
            PersonaError: they do not fit into the memory of this machine.
        """
        if not self.model.is_loaded:
            require_room(self.study, self.stage, self.model.dtype, default_device())
            _ = self.model.loss

    def prompt(self, question: Question, without: frozenset[str] = frozenset()) -> Prompt:
        """The prompt of a question, trimmed to fit the model as the stage's prompts are.

        Raises:
            PersonaError: it does not fit even without history and context.
        """
        prompts = render_question(question, self.stage, without)
        tokens = tokenize(prompts, self.model.tokenizer, self.stage.fit)
        if not tokens.height:
            raise PersonaError(
                f"the prompt does not fit into {self.stage.fit.max_length} tokens, the max_length of model "
                f"{self.stage.model_name}, even without history and context; shorten the text or the profile"
            )
        row = prompts.join(tokens, on=["user_id", "interaction_id"]).row(0, named=True)
        return Prompt(
            row,
            trimmed_prompt(row),
            row["input_ids"][: row["prompt_length"]],
            len(row["history_ids"]) - (row["n_history_dropped"] - row["n_history_left_out"]),
            row["n_history_dropped"],
        )

    @property
    def generation(self) -> GenerationSettings:
        """How the evaluation lets the model write."""
        return GenerationSettings.model_validate(self.stage.generation)

    def drafts(self, prompt: Prompt, n_samples: int, seed: int | None = None) -> list[Draft]:
        """The greedy text, and sampled ones.

        Of a target of the evaluation, with its seed, they are the texts of `generations.parquet`.
        """
        self.load()
        # vLLM would be started for each draft.
        changes = {"n_samples": max(1, n_samples), "backend": "transformers"}
        changes |= {} if seed is None else {"seed": seed}
        settings = self.generation.model_copy(update=changes)
        asked = pl.DataFrame(
            {
                "interaction_id": [prompt.row["interaction_id"]],
                "input_ids": [prompt.ids],
                "prompt_length": [len(prompt.ids)],
            }
        )
        written = generate_reviews(self.model, asked, settings, ResumableWork(None, {}), self.n_star_tokens)
        drafts = [
            Draft(row["method"], row["text"], row["written_rating"], row["stop_reason"] == "end")
            for row in written.sort("method", "draw").iter_rows(named=True)
        ]
        return drafts if n_samples else [draft for draft in drafts if draft.method == GREEDY]

    @cached_property
    def n_star_tokens(self) -> int:
        """Tokens that the line of the stars before a text may have; 0 for a stage that writes none."""
        if not self.stage.spec.style.trains_stars:
            return 0
        return max(map(len, star_completions(self.model.tokenizer, trained=True)))

    def stars(self, prompt: Prompt) -> list[float] | None:
        """The probabilities of 1 to 5 stars, scaled to add up to 1; None where the data has no stars to ask for."""
        cue, rating_cue = self.stage.cues
        trained = self.stage.spec.style.trains_stars
        if not (trained or rating_cue) or not self._has_stars:
            return None
        self.load()
        tokenizer = self.model.tokenizer
        own = [np.array(prompt.ids, dtype=np.int32)]
        asked = own if trained else ask_for_stars(tokenizer, own, (cue, str(rating_cue)))
        completions = star_completions(tokenizer, trained)
        nll = self._nll(asked, completions, [(0, n) for n in range(len(STARS))])
        probabilities: list[float] = normalised(np.exp(-nll)[None])[0].tolist()
        return probabilities

    @cached_property
    def _has_stars(self) -> bool:
        file = self.study.table("targets")
        schema = schemas.TARGETS if file.is_file() else schemas.INTERACTIONS
        ratings = read_table(file if file.is_file() else self.study.table("interactions"), schema, ["rating"])["rating"]
        return bool(ratings.count()) and why_no_stars(ratings) is None

    def real(self, question: Question, prompt: Prompt) -> Completion | None:
        """What the user wrote, as the stage was trained on it; None if it is not in the data."""
        if question.real_text is None:
            return None
        return Completion(question.real_text, prompt.row["completion"][: prompt.row["text_offset"]])

    def given(self, text: str, rating: float | None) -> Completion:
        """A text that somebody gives, with its stars where the stage writes them before the text.

        Raises:
            PersonaError: the text is empty, or its stars are needed and not given.
        """
        if not text.strip():
            raise PersonaError("there is no text to score")
        if not self.stage.spec.style.trains_stars:
            return Completion(text.strip())
        if rating is None:
            raise PersonaError(f"stage {self.stage.name} writes the stars before the text; give them with --rating")
        if not math.isfinite(rating) or (self._has_stars and rating not in range(1, len(STARS) + 1)):
            raise PersonaError(f"--rating: got {rating:g}, allowed are 1 to {len(STARS)}, as in the data")
        return Completion(text.strip(), f"{rating:g}\n")

    def score(self, prompts: list[list[int]], completion: Completion) -> list[Score]:
        """How likely a text is after each of some prompts; all are computed as one prefix tree.

        Args:
            prompts: token ids, as `Prompt.ids`.

        Raises:
            PersonaError: the text does not fit.
        """
        line, body = encode(self.model.tokenizer, [completion.star_line, completion.text], special=False)
        end = frame_ids(self.model.tokenizer)[2] if completion.is_whole else []
        longest = max(map(len, prompts)) + len(line) + len(body) + len(end)
        if longest > self.stage.fit.max_length:
            raise PersonaError(
                f"prompt and text have {longest:,} tokens, more than max_length of model {self.stage.model_name} "
                f"({self.stage.fit.max_length:,}); score a shorter text, or leave out the history: --without history"
            )
        self.load()
        nll = self._nll(
            [np.array(ids, dtype=np.int32) for ids in prompts],
            [np.array(line + body + end, dtype=np.int32)],
            [(n, 0) for n in range(len(prompts))],
            given=len(line),
        )
        return [Score(completion.text, value, len(body) + len(end)) for value in nll.tolist()]

    def _nll(self, prompts: list[Ids], completions: list[Ids], asked: list[tuple[int, int]], given: int = 0) -> Floats:
        pairs = Pairs(prompts, completions, np.array(asked), [given] * len(completions))
        return score_pairs(self.model, pairs, ROW_TOKENS, ResumableWork(None, {}), self.stage.name)

    def framed(self, prompt: str) -> list[int]:
        """The tokens of a prompt as a whole, with those of the chat template around it."""
        before, between, _ = frame_ids(self.model.tokenizer)
        return before + encode(self.model.tokenizer, [prompt], special=False)[0] + between

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return int(self.model.tokenizer.convert_tokens_to_ids(chat_frame(self.model.tokenizer).end))
