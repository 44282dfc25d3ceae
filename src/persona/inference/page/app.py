"""The web application: one address, whose query says what is asked. It changes nothing, so an address can be kept."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from persona.errors import PersonaError
from persona.inference.explain import WHOLE, Explanation, explain
from persona.inference.question import Question, ask, parse_turn
from persona.inference.writer import Draft, Prompt, Score, Writer
from persona.prompts import PARTS
from persona.study import Stage, Study
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.units import shorten

HOSTS = ["127.0.0.1", "localhost"]
EXAMPLES = 30  # texts of the test set to choose from
SHOWN = 60  # characters of a text in the list
MOST_SAMPLES = 8


@dataclass(frozen=True)
class Asked:
    """What the query of an address asks for; empty texts where it says nothing.

    Attributes:
        parts: the parts of the prompt that are switched on.
        is_asked: whether the form was sent, or a text was chosen.
    """

    stages: list[str]
    target: str
    user: str
    item: str
    title: str
    context: str
    parts: list[str]
    samples: int
    text: str
    rating: str
    explains: bool
    is_asked: bool

    @classmethod
    def of(cls, query: QueryParams) -> Asked:
        """From a query."""
        names = ("target", "user", "item", "title", "context", "text", "rating")
        samples = query.get("samples", "")
        is_asked = "asked" in query
        return cls(
            stages=query.getlist("stage"),
            parts=query.getlist("part") if is_asked else list(PARTS),
            samples=min(MOST_SAMPLES, int(samples)) if re.fullmatch("[0-9]{1,4}", samples) else 1,
            explains="explain" in query,
            is_asked=is_asked or "target" in query,
            **{name: query.get(name, "").strip() for name in names},
        )

    @property
    def without(self) -> frozenset[str]:
        """The parts that are switched off."""
        return frozenset(PARTS) - set(self.parts)

    @property
    def stars(self) -> float:
        """The stars of the given text.

        Raises:
            PersonaError: they are not a number.
        """
        try:
            return float(self.rating)
        except ValueError as error:
            raise PersonaError(f"{self.rating}: the stars of the text are a number, such as 4") from error

    def question(self, study: Study) -> Question:
        """Who is asked for and about what.

        Raises:
            PersonaError: see `ask`.
        """
        if self.target and not (self.target.isascii() and self.target.isdecimal() and len(self.target) < 20):
            raise PersonaError(f"{self.target[:40]}: no text has this interaction_id")
        target = int(self.target) if self.target else None
        context = [parse_turn(line) for line in self.context.splitlines() if line.strip()]
        return ask(study, self.user or None, self.item or None, self.title or None, target, context=context)


@dataclass(frozen=True)
class Answer:
    """What one stage says to a question."""

    stage: str
    prompt: Prompt
    drafts: list[Draft]
    score: Score | None
    stars: list[float] | None
    explanation: Explanation | None
    trains_stars: bool
    unusual: list[str]


def largest_effect(answers: list[Answer]) -> float:
    """The largest effect of all stages, by which the bars of all are scaled."""
    effects = [effect for answer in answers if answer.explanation for effect in answer.explanation.effects]
    return max((abs(effect.nats) for effect in effects), default=0.0) or 1.0


@dataclass
class Writers:
    """The stages that were loaded. One request at a time computes."""

    study: Study
    lock: threading.Lock = field(default_factory=threading.Lock)
    loaded: dict[str, Writer] = field(default_factory=dict)

    def of(self, stage: Stage) -> Writer:
        """A stage, loaded. Where there is no room for it beside the others, they are unloaded.

        Raises:
            PersonaError: there is no room for it alone.
        """
        if stage.name in self.loaded:
            return self.loaded[stage.name]
        writer = Writer(self.study, stage)
        try:
            writer.load()
        except PersonaError:
            if not self.loaded:
                raise
            for other in self.loaded.values():
                other.model.unload()
            self.loaded.clear()
            writer.load()
        self.loaded[stage.name] = writer
        return writer

    def answer(self, stage: Stage, question: Question, asked: Asked) -> Answer:
        """What a stage writes, and how it sees the real or a given text.

        Raises:
            PersonaError: the prompt does not fit, or stars are needed to score a text.
        """
        writer = self.of(stage)
        prompt = writer.prompt(question, asked.without)
        drafts = writer.drafts(prompt, asked.samples)
        rating = asked.stars if asked.rating else question.target["rating"][0]
        scored = writer.given(asked.text, rating) if asked.text else writer.real(question, prompt)
        explained = scored or drafts[0].completion
        return Answer(
            stage.name,
            prompt,
            drafts,
            writer.score([prompt.ids], scored)[0] if scored else None,
            writer.stars(prompt),
            explain(writer, question, prompt, explained, asked.without) if asked.explains else None,
            stage.spec.style.trains_stars,
            stage.untrained_without(asked.without),
        )


def application(study: Study) -> Starlette:
    """The application for a results folder, to run within `one_process`; it answers to this machine's names alone."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    template = environment.get_template("page.html.j2")
    writers = Writers(study)
    examples = _examples(study)

    def page(request: Request) -> HTMLResponse:
        asked = Asked.of(request.query_params)
        nonce = secrets.token_urlsafe(16)
        shown: dict[str, Any] = {"question": None, "answers": [], "errors": []}
        if asked.is_asked:
            with writers.lock:
                shown |= _answers(study, writers, asked)
        html = template.render(
            study=study,
            asked=asked,
            stages=list(study.stages.values()),
            chosen=asked.stages or [study.stage(None).name],
            examples=_with_chosen(examples, asked.target),
            parts=PARTS,
            whole=WHOLE,
            most_samples=MOST_SAMPLES,
            nonce=nonce,
            largest=largest_effect(shown["answers"]),
            **shown,
        )
        # What people wrote is escaped; should it not be, a browser would still run nothing of it.
        policy = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
            f"script-src 'nonce-{nonce}'"
        )
        return HTMLResponse(
            html,
            400 if shown["errors"] else 200,
            headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"},
        )

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    return Starlette(routes=[Route("/", page)], middleware=[hosts])


def _answers(study: Study, writers: Writers, asked: Asked) -> dict[str, Any]:
    """The question and what each chosen stage says; an error of one stage keeps what the others say."""
    answers: list[Answer] = []
    try:
        question = asked.question(study)
    except PersonaError as error:
        return {"errors": [str(error)]}
    errors = []
    for name in list[str | None](asked.stages) or [None]:
        try:
            answers.append(writers.answer(study.stage(name), question, asked))
        except PersonaError as error:
            errors.append(str(error))
    return {"question": question, "answers": answers, "errors": errors}


def _examples(study: Study) -> list[tuple[str, str]]:
    """Some texts of the test set by their ids, if there are any those that the evaluation wrote texts for."""
    file = study.table("targets")
    if not file.is_file():
        return []
    targets = read_table(file, schemas.TARGETS).filter(pl.col("cohort") == "test")
    written = study.stage(None).evaluated() / "generations.parquet"
    if written.is_file():
        ids = read_table(written, schemas.GENERATIONS, ["interaction_id"])["interaction_id"].unique()
        targets = targets.filter(pl.col("interaction_id").is_in(ids.implode()))
    titles = read_table(study.table("items"), schemas.ITEMS, ["item_id", "title"])
    shown = targets.head(EXAMPLES).join(titles, on="item_id", how="left", maintain_order="left")
    return [(str(row["interaction_id"]), _line(row)) for row in shown.iter_rows(named=True)]


def _line(row: dict[str, Any]) -> str:
    return f"{row['title']} · {row['user_id'][:6]} · {shorten(row['text'], SHOWN)}"


def _with_chosen(examples: Iterable[tuple[str, str]], target: str) -> list[tuple[str, str]]:
    listed = list(examples)
    return [(target, target), *listed] if target and target not in dict(listed) else listed
