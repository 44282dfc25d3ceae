"""Scores, intervals, sampled reviews and star probabilities on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from persona.errors import PersonaError
from persona.evaluation.generation import (
    GenerationSettings,
    choose_targets,
    generate_reviews,
    rating_metrics,
    rating_probabilities,
)
from persona.evaluation.scoring import target_nll
from persona.evaluation.statistics import bootstrap_ratio, nll_metrics, paired_difference
from persona.ingest import Ingested
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import TokenTable
from persona.modeling.tiny import write_tiny_model
from persona.prompts import Parts
from persona.tokenization import load_tokenizer, tokenize
from tests.unit.test_prompts import CUE, prompts_of

RATING_CUE = "预测用户的评分："


@pytest.fixture(scope="module")
def folder(tables: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    texts = tables.interactions["text"].to_list()
    write_tiny_model(texts, folder, 600, hidden_size=64, num_hidden_layers=2, num_experts=4, seed=0)
    return folder


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokens(tables: Ingested, folder: Path) -> pl.DataFrame:
    prompts = prompts_of(tables, "simple", Parts(profile=True, history=True, context=True)).head(20)
    return tokenize(prompts, load_tokenizer(str(folder)), 400)


def test_the_nll_of_a_target_is_that_of_its_own_text(model: Any, tokens: pl.DataFrame) -> None:
    expected = []
    for row in tokens.iter_rows(named=True):
        ids, prompt = torch.tensor(row["input_ids"]), row["prompt_length"]
        with torch.inference_mode():
            log_p = torch.log_softmax(model(input_ids=ids[None]).logits[0], dim=-1)
        expected.append(-sum(float(log_p[i - 1, ids[i]]) for i in range(prompt, len(ids))))
    scored = target_nll(CompletionLoss(model), TokenTable.from_frame(tokens), 500)
    np.testing.assert_allclose(scored, expected, rtol=1e-5)


def test_an_interval_of_independent_users_is_the_textbook_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 0.5, 400)
    low, high = bootstrap_ratio(x, np.ones(400))
    half = 1.96 * x.std() / 20
    assert low == pytest.approx(x.mean() - half, abs=0.005)
    assert high == pytest.approx(x.mean() + half, abs=0.005)


def scores(nll: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "interaction_id": [1, 2, 3],
            "user_id": ["a", "a", "b"],
            "cohort": ["test"] * 3,
            "n_characters": [10, 10, 20],
            "n_tokens": [4, 4, 8],
            "nll": nll,
        }
    )


def test_metrics_by_hand() -> None:
    metrics = nll_metrics(scores([10.0, 20.0, 50.0]), "test")
    assert metrics["nll_per_character"] == 2.0
    assert metrics["nll_per_token"] == 5.0
    # Only two users: a resample has a alone (1.5), b alone (2.5), or both (2.0).
    assert metrics["nll_per_character_95"] == [1.5, 2.5]


def test_a_paired_difference_by_hand() -> None:
    difference, low, high = paired_difference(scores([9.0, 19.0, 48.0]), scores([10.0, 20.0, 50.0]), "test")
    assert (difference, low, high) == pytest.approx((-0.1, -0.1, -0.1))


def test_the_same_targets_are_chosen_for_every_model(tokens: pl.DataFrame) -> None:
    chosen = choose_targets(tokens, 5, seed=1)["interaction_id"].to_list()
    assert choose_targets(tokens.reverse(), 5, seed=1)["interaction_id"].to_list() == chosen


def test_reviews_are_seeded_and_say_why_they_stopped(model: Any, folder: Path, tokens: pl.DataFrame) -> None:
    tokenizer = load_tokenizer(str(folder))
    settings = GenerationSettings(n_targets=20, max_new_tokens=40, temperature=1.0, seed=3)
    first = generate_reviews(model, tokenizer, tokens, settings)
    assert first.equals(generate_reviews(model, tokenizer, tokens, settings))
    assert set(first["stop_reason"]) <= {"end", "length"}
    assert first["interaction_id"].to_list() == tokens["interaction_id"].to_list()


def test_star_probabilities_are_those_of_the_prompt_with_the_other_cue(
    model: Any, folder: Path, tables: Ingested, tokens: pl.DataFrame
) -> None:
    tokenizer = load_tokenizer(str(folder))
    stars = rating_probabilities(model, tokenizer, tokens, CUE, RATING_CUE)
    prompts = prompts_of(tables, "simple", Parts(profile=True, history=True, context=True))
    row = prompts.join(stars, on="interaction_id").row(0, named=True)
    asked = row["prompt"].removesuffix(CUE) + RATING_CUE
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    p = torch.softmax(model(input_ids=ids).logits[0, -1].double(), dim=0)
    expected = [float(p[tokenizer.convert_tokens_to_ids(star)]) for star in "12345"]
    got = stars.filter(interaction_id=row["interaction_id"])
    np.testing.assert_allclose(got["rating_probabilities"].item().to_list(), expected, rtol=1e-4)
    mean = sum(s * q for s, q in zip(range(1, 6), expected, strict=True)) / sum(expected)
    assert got["rating"].item() == pytest.approx(mean, rel=1e-4)


def test_a_prompt_that_does_not_end_with_the_cue_is_refused(model: Any, folder: Path, tokens: pl.DataFrame) -> None:
    with pytest.raises(PersonaError, match="do not end with the cue"):
        rating_probabilities(model, load_tokenizer(str(folder)), tokens, "别的", RATING_CUE)


def test_rating_error_by_hand() -> None:
    generated = pl.DataFrame(
        {"interaction_id": [1, 2], "rating": [4.0, 2.0], "rating_probabilities": [[0.1] * 5, [0.2] * 5]}
    )
    truth = pl.DataFrame({"interaction_id": [1, 2], "rating": [5.0, 3.0]})
    metrics = rating_metrics(generated, truth)
    assert metrics == pytest.approx({"targets": 2, "rmse": 1.0, "rmse_of_the_mean": 1.0, "leaked_probability": 0.25})
