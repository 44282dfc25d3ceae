"""`persona write`: what a trained stage writes as a user."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from tabulate import tabulate

from persona.commands.questions import add_question, add_results, question_of, whole_number
from persona.errors import PersonaError
from persona.ingestion.json_values import NAME_FIELDS
from persona.units import shorten

if TYPE_CHECKING:
    from persona.inference.explain import Explanation
    from persona.inference.question import Question
    from persona.inference.writer import Draft, Prompt, Score, Writer
    from persona.study import Study

WIDTH = 72  # characters of a history entry in a table
MOST_SAMPLES = 64


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser("write", help="write as a user with a trained stage, score a text, say what moves it")
    add_results(command)
    command.add_argument("--stage", help="default: the last stage of the configuration that has a model")
    add_question(command)
    command.add_argument(
        "--samples", type=whole_number(0, MOST_SAMPLES), default=1, help="sampled texts besides the greedy one (1)"
    )
    command.add_argument(
        "--seed", type=whole_number(0, 2**32 - 1), help="of the sampling; default: that of the evaluation"
    )
    command.add_argument("--score", metavar="TEXT", help="say how likely this text is, and write none")
    command.add_argument("--rating", type=float, help="stars of the scored text, where the stage writes them before it")
    command.add_argument(
        "--explain",
        action="store_true",
        help="leave out each profile field and history entry in turn: which move the text?",
    )
    command.add_argument("--print-prompt", action="store_true", help="print the prompt and end; no model is loaded")
    command.add_argument(
        "--print-request",
        action="store_true",
        help="print the request to a vLLM server as JSON and end: see docs/serving.md",
    )


def run(args: argparse.Namespace) -> None:
    """Answer the command."""
    from persona.inference.question import ask
    from persona.inference.writer import Writer, one_process
    from persona.study import Study

    study = Study.load(args.results)
    writer = Writer(study, study.stage(args.stage))
    question = ask(study, **question_of(args))
    without = frozenset(args.without)
    if args.rating is not None and (args.score is None or not writer.stage.spec.style.trains_stars):
        raise PersonaError(
            "--rating: only a text of --score has it, in a stage that writes the stars before the text; leave it out"
        )
    prompt = writer.prompt(question, without)
    if args.print_prompt:
        # A file or another program gets the prompt alone, without a line break that the model was not trained with.
        print(prompt.text, end="\n" if sys.stdout.isatty() else "", flush=True)
        return
    if args.print_request:
        print(json.dumps(request(writer, prompt, args.samples, args.seed), ensure_ascii=False))
        return
    print(*heading(study, writer, question, prompt, without), sep="\n")
    with one_process():
        _answer(args, writer, question, prompt, without)


def _answer(
    args: argparse.Namespace, writer: Writer, question: Question, prompt: Prompt, without: frozenset[str]
) -> None:
    from persona.inference.explain import explain

    if args.score is None:
        drafts = writer.drafts(prompt, args.samples, args.seed)
        print(*draft_lines(drafts), sep="\n")
        scored = writer.real(question, prompt)
        explained = scored or drafts[0].completion
    else:
        rating = question.target["rating"][0] if args.rating is None else args.rating
        scored = explained = writer.given(args.score, rating)
    if scored:
        print(*score_lines(writer.score([prompt.ids], scored)[0], is_real=args.score is None), sep="\n")
    stars = writer.stars(prompt)
    if stars:
        print(*star_lines(stars, writer.stage.spec.style.trains_stars), sep="\n")
    if args.explain:
        print(explanation_text(explain(writer, question, prompt, explained, without)))


def request(writer: Writer, prompt: Prompt, n_samples: int, seed: int | None) -> dict[str, object]:
    """The body of a request for completions as vLLM's server takes it: with tokens, so nothing is tokenized anew."""
    settings = writer.generation
    return {
        "model": writer.stage.name,
        "prompt": prompt.ids,
        "max_tokens": settings.max_new_tokens + writer.n_star_tokens,
        "temperature": settings.temperature if n_samples else 0.0,
        "n": max(1, n_samples),
        "seed": settings.seed if seed is None else seed,
        "stop_token_ids": [writer.end],
        "ignore_eos": True,
    }


def heading(study: Study, writer: Writer, question: Question, prompt: Prompt, without: frozenset[str]) -> list[str]:
    """Who is asked, and what the prompt shows."""
    names = [field["value"] for field in question.profile if field["field"].lower() in NAME_FIELDS]
    shown = f"{prompt.n_history:,} earlier texts" if writer.stage.spec.parts.history else "no history"
    dropped = f" ({prompt.n_dropped:,} older ones are left out to fit max_length)" if prompt.n_dropped else ""
    lines = [
        f"stage {writer.stage.name} of {study.folder}",
        f"user {question.user_id}{''.join(f' ({name})' for name in names[:1])}, about {question.title}",
        f"the prompt shows {shown}{dropped}, {len(prompt.ids):,} tokens",
    ]
    if unusual := writer.stage.untrained_without(without):
        lines.append(f"without {', '.join(unusual)}: the stage was not trained on such prompts")
    return [*lines, ""]


def draft_lines(drafts: list[Draft]) -> list[str]:
    """The texts, each with how it was written."""
    lines, n = [], 0
    for draft in drafts:
        n += draft.method == "sample"
        name = f"sample {n}" if draft.method == "sample" else draft.method
        stars = "" if draft.rating is None else f"[{draft.rating:g}] "
        lines.append(f"{name:<9} {stars}{draft.text}{'' if draft.is_whole else ' [...]'}")
    return lines


def score_lines(score: Score, is_real: bool) -> list[str]:
    """A text and its likelihood."""
    name = "real" if is_real else "scored"
    return [
        f"{name:<9} {score.text}",
        f"          NLL {score.nll:.3f} nats, {score.per_character:.3f} a character, {score.n_tokens} tokens",
    ]


def star_lines(stars: list[float], are_trained: bool) -> list[str]:
    """The probability of each star as a bar."""
    how = "" if are_trained else " (a zero-shot probe: the stage was not trained to give stars)"
    mean = sum(star * probability for star, probability in enumerate(stars, start=1))
    bars = [
        f"{n:>9} {probability:6.1%} {'█' * round(40 * probability)}" for n, probability in enumerate(stars, start=1)
    ]
    return ["", f"stars     {mean:.2f} expected{how}", *bars]


def explanation_text(explanation: Explanation) -> str:
    """The table of what moves a text."""
    rows = [(f"{effect.nats:+.3f}", effect.part, shorten(effect.what, WIDTH)) for effect in explanation.effects]
    table = tabulate(
        rows, ["nats", "part", "what is left out"], tablefmt="plain", disable_numparse=True, colalign=("right",)
    )
    return (
        f"\nWhat moves this text: {explanation.text}\n"
        "Nats by which it is likelier with it than without it; all else stays. Where two entries say the same, leaving "
        f"out one moves little.\n{table}\n"
        f"(The same likelihood computed alone differs by {explanation.rounding:.1g} nats: smaller effects are noise.)"
    )
