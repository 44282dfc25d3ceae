"""Likelihoods, stars and reviews of a tiny model, against the same computed one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from persona.errors import PersonaError
from persona.evaluation.generation import generate_reviews
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.cohort import STARS, CohortFiles, ask_for_stars, score_cohort
from persona.evaluation.scoring.pairs import Pairs
from persona.evaluation.settings import GenerationSettings
from persona.evaluation.targets import build_targets, choose_targets
from persona.ingestion.ingest import Ingested
from persona.modeling.loading import load_model
from persona.modeling.tiny import write_tiny_model
from persona.prompts import Parts, PromptSpec, load_style, render
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize

ROOT = Path(__file__).parents[2]
CUES = ("预测用户的影评：", "预测用户的评分：")


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tables: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and the tokens of 40 targets, with and without the user."""
    folder = tmp_path_factory.mktemp("scoring")
    texts = tables.interactions["text"].to_list()
    write_tiny_model(texts, folder / "model", 600, hidden_size=64, num_hidden_layers=2, num_experts=4, seed=0)
    style = load_style(ROOT / "config" / "prompts" / "simple.yaml")
    popular = tables.interactions["item_id"].value_counts().sort("count")["item_id"][-1]
    targets = tables.interactions.filter(pl.col("item_id") == popular).head(40)
    for name, parts in {"own": Parts(True, True, True), "empty": Parts(False, False, False, user=False)}.items():
        spec = PromptSpec(style, parts, "任务", CUES[0])
        prompts = render(targets, tables.interactions, tables.users, tables.items, spec)
        write_table(prompts, folder / f"{name}_prompts.parquet", schemas.PROMPTS)
        tokens = tokenize(prompts, load_tokenizer(str(folder / "model")), FitSettings(max_length=600))
        write_table(tokens, folder / f"{name}.parquet", schemas.TOKENS)
    return folder


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokens(folder: Path) -> pl.DataFrame:
    return read_table(folder / "own.parquet", schemas.TOKENS)


@pytest.fixture(scope="module")
def scored(folder: Path, tables: Ingested, tokens: pl.DataFrame) -> pl.DataFrame:
    keys = tables.interactions.select("interaction_id", "user_id", "item_id")
    cohort = keys.join(tokens.select("interaction_id"), on="interaction_id", how="semi")
    targets = build_targets({"test": cohort}, tables.interactions, 10, 42)
    files = CohortFiles(folder / "own.parquet", folder / "empty.parquet")
    return score_cohort(
        EvaluatedModel(str(folder / "model")), "test", files, targets, 700, CUES, ResumableWork(None, {})
    )


def nll(model: Any, prompt: list[int], completion: list[int]) -> float:
    """One forward pass of one text, in plain transformers."""
    ids = torch.tensor([prompt + completion])
    with torch.inference_mode():
        log_p = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    return -sum(float(log_p[len(prompt) + n - 1, token]) for n, token in enumerate(completion))


def halves(tokens: pl.DataFrame) -> dict[int, tuple[list[int], list[int]]]:
    rows = tokens.iter_rows(named=True)
    return {
        row["interaction_id"]: (row["input_ids"][: row["prompt_length"]], row["input_ids"][row["prompt_length"] :])
        for row in rows
    }


def test_a_review_is_scored_under_its_own_the_impostors_and_the_empty_prompt(
    model: Any, folder: Path, tokens: pl.DataFrame, scored: pl.DataFrame
) -> None:
    own = halves(tokens)
    empty = halves(read_table(folder / "empty.parquet", schemas.TOKENS))
    assert scored["impostor_ids"].list.len().min() >= 9
    for row in scored.gather_every(13).iter_rows(named=True):
        prompt, completion = own[row["interaction_id"]]
        assert row["nll"] == pytest.approx(nll(model, prompt, completion), rel=1e-5)
        assert row["nll_empty"] == pytest.approx(nll(model, empty[row["interaction_id"]][0], completion), rel=1e-5)
        assert row["interaction_id"] not in row["impostor_ids"]
        others = [nll(model, own[other][0], completion) for other in row["impostor_ids"]]
        np.testing.assert_allclose(row["nll_impostors"], others, rtol=1e-5)
        assert row["n_tokens"] == len(completion)


def test_star_probabilities_are_those_of_the_prompt_with_the_other_cue(
    model: Any, folder: Path, scored: pl.DataFrame
) -> None:
    tokenizer = load_tokenizer(str(folder / "model"))
    prompts = read_table(folder / "own_prompts.parquet", schemas.PROMPTS)
    for row in prompts.join(scored, on="interaction_id").gather_every(13).iter_rows(named=True):
        message = [{"role": "user", "content": row["prompt"].removesuffix(CUES[0]) + CUES[1]}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            p = torch.softmax(model(input_ids=ids).logits[0, -1].double(), dim=0)
        expected = [float(p[tokenizer.convert_tokens_to_ids(star)]) for star in STARS]
        np.testing.assert_allclose(row["stars"], expected, rtol=1e-4)


def test_a_model_whose_tokens_do_not_see_all_before_them_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | {"use_sliding_window": True, "sliding_window": 4}), encoding="utf-8")
    with pytest.raises(PersonaError, match="attention has sliding_window; only full attention is supported"):
        load_model(str(tmp_path / "model"), torch.float32, torch.device("cpu"))


def test_a_prompt_that_does_not_end_with_the_cue_is_refused(folder: Path, tokens: pl.DataFrame) -> None:
    tokenizer = load_tokenizer(str(folder / "model"))
    prompts = [np.array(prompt, dtype=np.int32) for prompt, _ in halves(tokens).values()]
    with pytest.raises(PersonaError, match="do not end with the cue"):
        ask_for_stars(tokenizer, prompts, ("别的", CUES[1]))


def test_the_empty_prompt_says_nothing_of_the_user(folder: Path) -> None:
    prompts = read_table(folder / "empty_prompts.parquet", schemas.PROMPTS)
    assert prompts["prompt"].n_unique() == 1
    assert "USER" not in prompts["prompt"][0] and "HISTORY" not in prompts["prompt"][0]


def test_prompts_that_are_the_same_are_scored_once() -> None:
    one, two, text = (np.array(ids, dtype=np.int32) for ids in ([1, 2], [3], [4, 5]))
    pairs = Pairs([one, two, one.copy()], [text], np.array([[0, 0], [1, 0], [2, 0]]))
    assert len(pairs.pairs) == 2
    assert pairs.answers[0] == pairs.answers[2] != pairs.answers[1]


def test_what_prompts_and_texts_share_is_computed_once(tokens: pl.DataFrame) -> None:
    own = halves(tokens)
    prompts, texts = (
        [np.array(half, dtype=np.int32) for half in each] for each in zip(*list(own.values())[:9], strict=True)
    )
    texts += [np.array([5], dtype=np.int32), texts[0][:1]]  # a star, and one that a text begins with
    pairs = Pairs(prompts, texts, np.array([(p, t) for p in range(len(prompts)) for t in range(len(texts))]))
    documents = {(*prompt.tolist(), *text.tolist()[:-1]) for prompt in prompts for text in texts}
    distinct = {document[:n] for document in documents for n in range(1, len(document) + 1)}
    assert pairs.row(0, len(pairs.pairs)).input_ids.shape[1] == len(distinct)
    assert pairs.order.cut(10**9) == [(0, len(pairs.pairs))]
    assert len(distinct) < sum(map(len, documents)) / 5


def test_the_same_targets_are_chosen_for_every_model(tokens: pl.DataFrame) -> None:
    chosen = choose_targets(tokens, 5, seed=1)["interaction_id"].to_list()
    assert choose_targets(tokens.reverse(), 5, seed=1)["interaction_id"].to_list() == chosen


def test_a_review_does_not_depend_on_its_batch(folder: Path, tokens: pl.DataFrame) -> None:
    model, work = EvaluatedModel(str(folder / "model")), ResumableWork(None, {})
    settings = GenerationSettings(n_targets=16, n_samples=2, max_new_tokens=16, temperature=0.9, seed=3)
    tokens = tokens.head(16)
    together = generate_reviews(model, tokens, settings, work).sort("interaction_id", "method", "draw")
    alone = generate_reviews(model, tokens.head(1), settings, work).sort("interaction_id", "method", "draw")
    target = tokens["interaction_id"][0]
    assert together.filter(pl.col("interaction_id") == target).equals(alone)
    assert together.height == 3 * 16
    assert set(together["stop_reason"]) <= {"end", "length"}
    drawn = together.filter(pl.col("method") == "sample")["text"]
    assert drawn.n_unique() > 0.9 * drawn.len()


def test_sampling_follows_the_temperature(folder: Path, tokens: pl.DataFrame) -> None:
    """First tokens drawn for one prompt are distributed as the softmax says."""
    from persona.evaluation.generation import SeededSampling

    scores = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(4000, 1)
    numbers = np.random.default_rng(0).random((4000, 1))
    for temperature in (1.0, 0.5):
        kept = SeededSampling(numbers, temperature, prompt_width=1)(torch.zeros(4000, 1), scores)
        share = torch.bincount(kept.argmax(1), minlength=3) / 4000
        expected = torch.softmax(scores[0] / temperature, dim=0)
        torch.testing.assert_close(share, expected, atol=0.03, rtol=0)
