"""Likelihoods, stars and reviews of a tiny model, against the same computed one by one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from persona.errors import PersonaError
from persona.evaluation.generation import generate_reviews, split_stars
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.cohort import STARS, CohortFiles, ask_for_stars, score_cohort
from persona.evaluation.scoring.pairs import Pairs, score_pairs
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

pytestmark = pytest.mark.usefixtures("one_process")

ROOT = Path(__file__).parents[2]
CUES = ("预测用户的影评：", "预测用户的评分：")


@pytest.fixture(scope="module")
def folder(tables: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and the tokens of 40 targets, with and without the user."""
    folder = tmp_path_factory.mktemp("scoring")
    texts = tables.interactions["text"].to_list()
    write_tiny_model(texts, folder / "model", 600, hidden_size=64, num_hidden_layers=2, num_experts=4, seed=0)
    write_samples(folder, tables, "simple")
    return folder


def write_samples(folder: Path, tables: Ingested, style_name: str) -> None:
    style = load_style(ROOT / "config" / "prompts" / f"{style_name}.yaml")
    popular = tables.interactions["item_id"].value_counts().sort("count")["item_id"][-1]
    targets = tables.interactions.filter(pl.col("item_id") == popular).head(40)
    for name, parts in {"own": Parts(True, True, True), "empty": Parts(False, False, False, user=False)}.items():
        spec = PromptSpec(style, parts, "任务", CUES[0])
        prompts = render(targets, tables.interactions, tables.users, tables.items, spec)
        write_table(prompts, folder / f"{name}_prompts.parquet", schemas.PROMPTS)
        tokens = tokenize(prompts, load_tokenizer(str(folder / "model")), FitSettings(max_length=600))
        write_table(tokens, folder / f"{name}.parquet", schemas.TOKENS)


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokens(folder: Path) -> pl.DataFrame:
    return read_table(folder / "own.parquet", schemas.TOKENS)


@pytest.fixture(scope="module")
def scored(folder: Path, tables: Ingested, tokens: pl.DataFrame) -> pl.DataFrame:
    return score(folder, tables, tokens, EvaluatedModel(str(folder / "model")))


def score(folder: Path, tables: Ingested, tokens: pl.DataFrame, model: EvaluatedModel) -> pl.DataFrame:
    keys = tables.interactions.select("interaction_id", "user_id", "item_id")
    cohort = keys.join(tokens.select("interaction_id"), on="interaction_id", how="semi")
    targets = build_targets({"test": cohort}, tables.interactions, 10, 42)
    files = CohortFiles(folder / "own.parquet", folder / "empty.parquet")
    return score_cohort(model, "test", files, targets, 700, CUES, ResumableWork(None, {}))


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


def test_impostors_with_rendered_prompts_are_scored_under_these(
    model: Any, folder: Path, tmp_path: Path, tables: Ingested, tokens: pl.DataFrame
) -> None:
    own = halves(tokens)
    cohort = tables.interactions.join(tokens.select("interaction_id"), on="interaction_id", how="semi")
    targets = build_targets({"test": cohort.select(list(schemas.SAMPLES.columns))}, tables.interactions, 10, 42)
    first, second, third = targets.filter(pl.col("block") == 0)["interaction_id"].to_list()[:3]
    # The first target's text under a prompt that only the second user has for it: the empty one and two more tokens.
    empty = halves(read_table(folder / "empty.parquet", schemas.TOKENS))[first][0]
    prompt = [7, 9, *empty]
    row = tokens.filter(pl.col("interaction_id") == second).with_columns(
        interaction_id=pl.lit(first), input_ids=pl.Series([prompt + own[first][1]]), prompt_length=len(prompt)
    )
    write_table(row, tmp_path / "impostors.parquet", schemas.TOKENS)
    files = CohortFiles(folder / "own.parquet", folder / "empty.parquet", tmp_path / "impostors.parquet")
    work = ResumableWork(None, {})
    table = score_cohort(EvaluatedModel(str(folder / "model")), "test", files, targets, 700, (CUES[0], None), work)
    scored = {row["interaction_id"]: row for row in table.iter_rows(named=True)}

    def under(target: int, other: int) -> float:
        return float(scored[target]["nll_impostors"][scored[target]["impostor_ids"].index(other)])

    assert under(first, second) == pytest.approx(nll(model, prompt, own[first][1]), rel=1e-5)
    assert under(first, third) == pytest.approx(nll(model, own[third][0], own[first][1]), rel=1e-5)
    assert under(second, first) == pytest.approx(nll(model, own[first][0], own[second][1]), rel=1e-5)


def test_val_targets_are_scored_under_their_own_prompts_alone(
    folder: Path, tables: Ingested, tokens: pl.DataFrame
) -> None:
    cohort = tables.interactions.join(tokens.select("interaction_id"), on="interaction_id", how="semi")
    targets = build_targets({"val": cohort.select(list(schemas.SAMPLES.columns))}, tables.interactions, 10, 42)
    assert targets["block"].null_count() == 0
    files, work = CohortFiles(folder / "own.parquet", None), ResumableWork(None, {})
    model = EvaluatedModel(str(folder / "model"))
    scored = score_cohort(model, "val", files, targets, 700, CUES, work)
    assert scored["impostor_ids"].null_count() == scored["nll_empty"].null_count() == scored.height == tokens.height


def test_targets_without_impostors_are_scored_under_no_other_prompt(
    folder: Path, tables: Ingested, tokens: pl.DataFrame, scored: pl.DataFrame, tmp_path: Path
) -> None:
    for name in ("own", "empty"):
        two = read_table(folder / f"{name}.parquet", schemas.TOKENS).head(2)
        write_table(two, tmp_path / f"{name}.parquet", schemas.TOKENS)
    cohort = tables.interactions.join(two, on="interaction_id", how="semi").select(list(schemas.SAMPLES.columns))
    targets = build_targets({"test": cohort}, tables.interactions, 10, 42).with_columns(block=pl.lit(None, pl.Int32))
    files, work = CohortFiles(tmp_path / "own.parquet", tmp_path / "empty.parquet"), ResumableWork(None, {})
    model = EvaluatedModel(str(folder / "model"))
    alone = score_cohort(model, "test", files, targets, 700, CUES, work).sort("interaction_id")
    assert alone["nll_impostors"].to_list() == [[], []]
    expected = scored.join(alone, on="interaction_id", how="semi").sort("interaction_id")
    np.testing.assert_allclose(alone["nll"], expected["nll"], rtol=1e-5)


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


@pytest.fixture(scope="module")
def with_stars(folder: Path, tables: Ingested, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ingested]:
    """The same model and targets with the stars before the text; every third rating is unknown."""
    rating = pl.when(pl.col("interaction_id") % 3 > 0).then("rating")
    some = dataclasses.replace(tables, interactions=tables.interactions.with_columns(rating))
    files = tmp_path_factory.mktemp("with_stars")
    (files / "model").symlink_to(folder / "model")
    write_samples(files, some, "detailed_with_stars")
    return files, some


def test_a_text_is_scored_given_its_stars_and_the_stars_where_they_are_written(
    model: Any, with_stars: tuple[Path, Ingested], scored: pl.DataFrame
) -> None:
    folder, tables = with_stars
    tokenizer = load_tokenizer(str(folder / "model"))
    tokens = read_table(folder / "own.parquet", schemas.TOKENS)
    assert (tokens["text_start"] > tokens["prompt_length"]).unique().len() == 2  # with a line of stars and without
    found = score(folder, tables, tokens, EvaluatedModel(str(folder / "model")))
    assert found["stars_trained"].all() and not scored["stars_trained"].any()
    texts = tables.interactions.select("interaction_id", "text", "rating")
    own, empty = halves(tokens), halves(read_table(folder / "empty.parquet", schemas.TOKENS))
    for row in found.join(texts, on="interaction_id").gather_every(7).iter_rows(named=True):
        prompt = own[row["interaction_id"]][0]
        line = [] if row["rating"] is None else tokenizer(f"{row['rating']:.0f}\n")["input_ids"]
        text = [*tokenizer(row["text"])["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
        assert own[row["interaction_id"]][1] == line + text
        assert (row["n_tokens"], row["n_characters"]) == (len(text), len(row["text"]))
        assert row["nll"] == pytest.approx(nll(model, prompt + line, text), rel=1e-5)
        nll_empty = nll(model, empty[row["interaction_id"]][0] + line, text)
        assert row["nll_empty"] == pytest.approx(nll_empty, rel=1e-5)
        others = [nll(model, own[other][0] + line, text) for other in row["impostor_ids"]]
        np.testing.assert_allclose(row["nll_impostors"], others, rtol=1e-5)
        lines = [tokenizer(f"{star}\n")["input_ids"] for star in STARS]
        np.testing.assert_allclose(row["stars"], [np.exp(-nll(model, prompt, line)) for line in lines], rtol=1e-4)


def test_a_model_that_was_not_trained_is_asked_for_the_stars(
    with_stars: tuple[Path, Ingested], folder: Path, tmp_path: Path
) -> None:
    """Its probe is that of prompts whose completion is the text alone."""
    files, tables = with_stars
    base = EvaluatedModel(str(folder / "model"), is_trained=False)
    (tmp_path / "model").symlink_to(folder / "model")
    write_samples(tmp_path, tables, "detailed")
    probed, expected = (
        score(each, tables, read_table(each / "own.parquet", schemas.TOKENS), base) for each in (files, tmp_path)
    )
    assert not probed["stars_trained"].any()
    np.testing.assert_allclose(probed["stars"].to_list(), expected["stars"].to_list(), rtol=1e-4)


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


def test_given_tokens_are_read_but_not_scored(folder: Path, tokens: pl.DataFrame) -> None:
    """The likelihood of a whole completion is that of its first tokens and that of the rest given them."""
    prompt, text = (np.array(half, dtype=np.int32) for half in next(iter(halves(tokens).values())))
    pairs = Pairs([prompt], [text, text, text[:3]], np.array([[0, 0], [0, 1], [0, 2]]), given=[0, 3, 0])
    whole, rest, first = score_pairs(EvaluatedModel(str(folder / "model")), pairs, 700, ResumableWork(None, {}), "test")
    assert whole == pytest.approx(first + rest, rel=1e-5) and rest < whole
    assert pairs.row(0, 3).input_ids.shape[1] == len(prompt) + len(text) - 1
    others = Pairs([prompt], [text, text, text[:3]], np.array([[0, 0], [0, 1], [0, 2]]), given=[0, 2, 0])
    assert others.digest() != pairs.digest()


@pytest.mark.parametrize(
    ("text", "rating", "rest"),
    [
        ("4\n好看", 4.0, "好看"),
        ("4.5\n好看", 4.5, "好看"),
        ("10\n", 10.0, ""),
        ("4好看", None, "4好看"),
        ("好看\n4", None, "好看\n4"),
        ("好", None, "好"),
        ("", None, ""),
    ],
)
def test_a_line_of_stars_is_taken_off_the_text(folder: Path, text: str, rating: float | None, rest: str) -> None:
    tokenizer = load_tokenizer(str(folder / "model"))
    ids = tokenizer(text)["input_ids"]
    found, kept = split_stars(tokenizer, ids, n_star_tokens=6)
    assert (found, tokenizer.decode(kept)) == (rating, rest)
    assert split_stars(tokenizer, ids, n_star_tokens=0) == (None, ids)


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
