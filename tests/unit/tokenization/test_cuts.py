"""Tokenizers of every family give prompts the tokens of the whole text, cut where each allows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

import persona.tokenization.tokenize as tokenize_module
from persona.ingestion.ingest import Ingested
from persona.prompts import Parts, PromptSpec, load_style, render
from persona.tokenization.chat import encode, frame_ids
from persona.tokenization.cuts import cuts_of
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import check_assembly, tokenize
from tests.unit.rendering import CUE, prompts_of
from tests.unit.tokenization.families import FAMILIES

# What ends and begins entries and sections in the hard cases.
ENDINGS = ["好。", "good.", "so-so 😀", "9", "e\u0301", "it's", "(x)", "...", "St.", "~"]


@pytest.fixture(scope="module")
def hard(tables: Ingested) -> Ingested:
    """Reviews of the synthetic release with other endings."""
    endings = pl.Series([ENDINGS[n % len(ENDINGS)] for n in range(tables.interactions.height)])
    return replace(tables, interactions=tables.interactions.with_columns(text=pl.col("text") + " " + endings))


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, hard: Ingested) -> Any:
    tokenizer = FAMILIES[request.param](hard.interactions["text"].head(600).to_list())
    tokenizer.family = request.param
    return tokenizer


def test_where_each_family_allows_cuts(family: Any) -> None:
    first = {"across_lines": (), "gpt4o": ("words",)}.get(family.family, ("lines",))
    assert cuts_of(family, slashes=False)[:1] == first


def test_lines_that_begin_with_a_slash_are_tokenized_as_a_whole(hard: Ingested, family: Any) -> None:
    assert bool(cuts_of(family)) == (family.family not in ("across_lines", "gpt4o"))
    interactions = hard.interactions.head(60).with_columns(text="/" + pl.col("text"))
    prompts = prompts_of(replace(hard, interactions=interactions), "detailed", Parts(True, True, True))
    prompts = prompts.with_columns(pl.col("prompt").str.replace_all(r"\n\d", "\n/"))
    check_assembly(prompts, tokenize(prompts, family, FitSettings(max_length=4000)), family, prompts.height)


def test_gpt2_cannot_be_cut_after_the_line_breaks_before_a_section(hard: Ingested) -> None:
    assert cuts_of(FAMILIES["gpt2"](hard.interactions["text"].head(600).to_list())) == ("lines",)


def test_qwen_is_cut_after_words(qwen: Any) -> None:
    assert cuts_of(qwen) == ("words",)


@pytest.mark.parametrize("style", ["simple", "detailed", "detailed_with_stars", "dialogue"])
def test_tokens_are_those_of_the_whole_text(hard: Ingested, family: Any, style: str) -> None:
    prompts = prompts_of(hard, style, Parts(True, True, True))
    check_assembly(prompts, tokenize(prompts, family, FitSettings(max_length=100_000)), family, prompts.height)


def test_prompts_end_with_the_tokens_of_the_cue(hard: Ingested, family: Any) -> None:
    """So the evaluation can replace the cue by one that asks for stars."""
    prompts = prompts_of(hard, "detailed", Parts(True, True, True)).head(50)
    tokens = tokenize(prompts, family, FitSettings(max_length=4000))
    end = encode(family, [CUE], special=False)[0] + frame_ids(family)[1]
    for ids, length in tokens.select("input_ids", "prompt_length").iter_rows():
        assert ids[:length][-len(end) :] == end


def test_a_text_gets_no_space_before_it(family: Any) -> None:
    """It stands inside of others, also for tokenizers that put a space before a text."""
    ids = encode(family, ["good", " good"], special=False)
    assert family.family == "wordpiece" or ids[0] != ids[1]
    assert family.decode(ids[0]).startswith("good")


@pytest.mark.parametrize("window", ["anchored", "recent"])
@pytest.mark.parametrize("style", ["detailed_with_stars", "dialogue"])
def test_trimmed_prompts_of_every_family_fit_and_have_the_tokens_of_their_text(
    hard: Ingested, family: Any, style: str, window: Literal["anchored", "recent"]
) -> None:
    turns = [{"speaker": "甲", "text": "话" * 12}] * 9
    interactions = hard.interactions.head(150).with_columns(context=pl.lit(turns))
    prompts = prompts_of(replace(hard, interactions=interactions), style, Parts(True, True, True))
    fit = FitSettings(max_length=400, completion_reserve=60, history_window=window)
    tokens = tokenize(prompts, family, fit)
    check_assembly(prompts, tokens, family, prompts.height)
    assert tokens["input_ids"].list.len().max() <= 400  # type: ignore[operator]
    assert tokens["n_history_dropped"].sum() > 0


@pytest.mark.parametrize("style", ["detailed_with_stars", "dialogue"])
@pytest.mark.parametrize(("window", "limit"), [("anchored", 300), ("recent", 190)])
def test_whole_prompts_are_trimmed_like_pieces(
    hard: Ingested,
    qwen: Any,
    style: str,
    window: Literal["anchored", "recent"],
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where both can be done all columns are the same, also for several users with one target."""
    turns = [{"speaker": "甲", "text": "话" * 12}] * 9
    interactions = hard.interactions.head(150).with_columns(context=pl.lit(turns))
    prompts = prompts_of(replace(hard, interactions=interactions), style, Parts(True, True, True))
    prompts = pl.concat([prompts, prompts.head(50).with_columns(user_id=pl.lit("another"))])
    fit = FitSettings(max_length=limit, completion_reserve=50, history_window=window)
    in_pieces = tokenize(prompts, qwen, fit)
    monkeypatch.setattr(tokenize_module, "cuts_of", lambda *_: ())
    assert tokenize(prompts, qwen, fit).equals(in_pieces)
    assert in_pieces["n_history_dropped"].sum() > 0
    assert in_pieces["n_context_dropped"].sum() > 0 or limit == 300


def test_a_history_without_a_heading_is_tokenized(hard: Ingested, family: Any, tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text('sections: [{part: history, entry: ["{title}", ": {text}"]}, {entry: "{title}"}, {entry: "{cue}"}]')
    targets = hard.interactions.select("interaction_id", "user_id", "item_id").head(100)
    spec = PromptSpec(load_style(path), Parts(False, True, False), "task", "cue:")
    prompts = render(targets, hard.interactions, hard.users, hard.items, spec)
    check_assembly(prompts, tokenize(prompts, family, FitSettings(max_length=1000)), family, prompts.height)
    assert prompts["history_ids"].list.len().sum() > 0
