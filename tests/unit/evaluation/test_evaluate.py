"""All steps of an evaluation in one process: with stars that were learned, and with ratings of any scale or none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from persona.evaluation.baselines.baselines import all_baselines
from persona.evaluation.claims import claim
from persona.evaluation.evaluate import evaluate_model
from persona.evaluation.metrics.summary import baseline_metrics, stage_metrics, star_metrics
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.cohort import CohortFiles
from persona.evaluation.settings import GenerationSettings
from persona.evaluation.targets import build_targets
from persona.ingestion.ingest import Ingested
from persona.modeling.loading import load_model
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import TokenTable, pack_row, plan_rows
from persona.modeling.tiny import write_tiny_model
from persona.prompts import Parts
from persona.splitting import split_users
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize
from tests.ingesting import ingested
from tests.unit.ingestion.examples import simple, write_lines
from tests.unit.rendering import CUE, prompts_of

pytestmark = pytest.mark.usefixtures("one_process")

USERS, ITEMS, CANDIDATES = 24, 4, 3
GENERATION = GenerationSettings(n_targets=6, n_samples=1, max_new_tokens=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(
        ["好看", "[HISTORY] 1. 2016-01-02"] * 9, folder, 300, 32, num_hidden_layers=1, num_experts=2, seed=0
    )
    return str(folder)


def data(folder: Path, rating: Any) -> Ingested:
    """Users with a text on each item, whose rating is a function of both numbers."""
    rows = [
        simple(user=f"u{u}", item=f"i{i}", day=f"2020-01-{i + 1:02}", text=f"text {u} on {i}", rating=rating(u, i))
        for u in range(USERS)
        for i in range(ITEMS)
    ]
    return ingested(write_lines(folder / "d.jsonl", rows), "jsonl")


def tables_of(
    folder: Path, tables: Ingested, model: str, style: str, cues: tuple[str, str | None], is_trained: bool = True
) -> dict[str, pl.DataFrame]:
    """Split, targets, scores and texts of a model."""
    split = split_users(tables.users, 0.25, 0.5, seed=1)
    keys = tables.interactions.select("interaction_id", "user_id", "item_id").join(split, on="user_id")
    cohorts = {name: keys.filter(pl.col("split") == name).drop("split") for name in ("val", "test")}
    targets = build_targets(cohorts, tables.interactions, CANDIDATES, 42)
    tokenizer = load_tokenizer(model)
    parts = Parts(profile=True, history=True, context=False)
    empty = Parts(profile=False, history=False, context=False, user=False)
    for name, shown, cohort in (("val", parts, "val"), ("test", parts, "test"), ("empty", empty, "test")):
        prompts = prompts_of(tables, style, shown, cohorts[cohort])
        write_table(
            tokenize(prompts, tokenizer, FitSettings(max_length=900)), folder / f"{name}.parquet", schemas.TOKENS
        )
    files = {
        "val": CohortFiles(folder / "val.parquet", None),
        "test": CohortFiles(folder / "test.parquet", folder / "empty.parquet"),
    }
    evaluated = EvaluatedModel(model, is_trained)
    scores, written = evaluate_model(evaluated, files, targets, 4000, cues, GENERATION, ResumableWork(None, {}))
    prompts = prompts_of(tables, style, parts, cohorts["test"])
    return {"split": split, "targets": targets, "scores": scores, "written": written, "prompts": prompts}


SCALES = {
    "zero_to_ten": lambda u, i: (3 * u + i) % 11,
    "half_stars": lambda u, i: 1 + (u + i) % 9 / 2,
    "negative": lambda u, i: (u + i) % 3 - 1,
    "none": lambda u, i: None,
    "constant": lambda u, i: 4,
    "some": lambda u, i: 1 + (u + i) % 5 if u % 3 else None,
    "one_rating": lambda u, i: 5 if u == i == 0 else None,
}


@pytest.mark.parametrize(
    ("scale", "style"),
    [(scale, "detailed_with_stars") for scale in SCALES] + [("half_stars", "detailed"), ("some", "detailed")],
)
def test_ratings_of_any_scale_are_evaluated(
    tmp_path: Path, model: str, scale: str, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    tables = data(tmp_path, SCALES[scale])
    with caplog.at_level(logging.INFO):
        made = tables_of(tmp_path, tables, model, style, (CUE, "评分："))
    targets, scores = made["targets"], made["scores"]
    baselines = all_baselines(tables.interactions, made["split"], targets, 42)
    metrics = stage_metrics([scores], made["written"], targets, made["prompts"], ["a text"], CANDIDATES)
    ids = made["written"]["interaction_id"].unique().to_list()
    measured = baseline_metrics(
        baselines.ngram, baselines.authors, baselines.ratings, baselines.texts, targets, ids, CANDIDATES
    )
    stars = claim([scores], baselines.authors, baselines.ratings, targets, CANDIDATES).conditions[2]
    others = scale in ("zero_to_ten", "half_stars", "negative")
    # Stars are part of the claim where the model was trained to give them and was asked.
    assert (stars.mark == "–") == (others or scale == "none" or style == "detailed")
    found = [message for message in caplog.messages if "not asked for" in message]
    assert len(found) == others
    asked = scores.filter(pl.col("cohort") == "test")["stars"]
    assert asked.null_count() == (asked.len() if others or not targets["rating"].count() else 0)
    assert not others or not metrics["stars"]["all"]
    if scale == "none":
        assert not measured["ratings"]
    if scale in ("zero_to_ten", "half_stars", "negative", "constant", "some"):
        mean = measured["ratings"]["global_mean"]
        assert np.isfinite(mean["rmse"]["value"]) and ("qwk" in mean) == (not others)
        assert others or metrics["stars"]["all"]["rmse"]["value"] >= 0
        guesses, known = baselines.ratings["rating"], tables.interactions["rating"].drop_nulls()
        assert known.min() <= guesses.min() and guesses.max() <= known.max()  # type: ignore[operator]


def test_ratings_of_val_and_test_users_alone_have_no_baseline(tmp_path: Path) -> None:
    """All that is known of ratings would be of the users that are tested."""
    tables = data(tmp_path, lambda u, i: 1 + (u + i) % 5)
    split = split_users(tables.users, 0.25, 0.5, seed=1)
    rows = tables.interactions.join(split, on="user_id")
    rating = pl.when(pl.col("split") != "train").then("rating")
    interactions = rows.with_columns(rating).drop("split")
    targets = build_targets({"test": rows.filter(pl.col("split") == "test")}, interactions, CANDIDATES, 42)
    assert targets["rating"].count() and not all_baselines(interactions, split, targets, 42).ratings.height


@pytest.mark.parametrize(("style", "cue", "asked"), [("detailed", None, False), ("detailed_with_stars", None, True)])
def test_stars_that_are_trained_need_no_question(
    tmp_path: Path, model: str, style: str, cue: str | None, asked: bool
) -> None:
    made = tables_of(tmp_path, data(tmp_path, lambda u, i: 1 + (u + i) % 5), model, style, (CUE, cue))
    test = made["scores"].filter(pl.col("cohort") == "test")
    assert test["stars"].count() == (test.height if asked else 0)
    assert test["stars_trained"].unique().to_list() == [asked]


def train_for(steps: int, tokens: Path, base: str, trained: Path) -> str:
    """Train all weights on all samples at once, in plain torch; the folder of the model."""
    table = TokenTable.read(tokens)
    [rows] = plan_rows(table, np.arange(len(table)), 1, 100_000, prefix_sharing=True)
    loss = CompletionLoss(load_model(base, torch.float32, torch.device("cpu")).train())
    optimizer = torch.optim.AdamW(loss.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        for row in rows:
            (loss(pack_row(table, row.members, row.shared)).sum() / int(table.completion_lengths.sum())).backward()
        optimizer.step()
    loss.model.save_pretrained(trained)
    load_tokenizer(base).save_pretrained(trained)
    return str(trained)


def trained_in(style: str, tables: Ingested, folder: Path) -> dict[str, pl.DataFrame]:
    """What `tables_of` gives of a model that was trained on the training users, with their history alone."""
    folder.mkdir()
    prompts = prompts_of(tables, style, Parts(profile=False, history=True, context=False))
    texts = [*prompts["prompt"], *prompts["completion"]]
    write_tiny_model(texts, folder / "base", 400, 64, num_hidden_layers=1, num_experts=2, seed=0)
    users = split_users(tables.users, 0.25, 0.5, seed=1).filter(pl.col("split") == "train")
    tokenizer = load_tokenizer(str(folder / "base"))
    tokens = tokenize(prompts.join(users, on="user_id", how="semi"), tokenizer, FitSettings(max_length=900))
    write_table(tokens, folder / "train.parquet", schemas.TOKENS)
    trained = train_for(80, folder / "train.parquet", str(folder / "base"), folder / "model")
    return tables_of(folder, tables, trained, style, (CUE, "预测用户的评分："))


def test_a_model_that_learned_the_stars_knows_them_better_than_one_that_is_only_asked(tmp_path: Path) -> None:
    """Users who always give the same star, and write accordingly. Without a history there is nothing to know."""
    rows = [
        simple(user=f"u{u}", item=f"i{i}", day=f"2020-01-{i + 1:02}", text="差还好赞绝"[u % 5] * 3, rating=1 + u % 5)
        for u in range(100)
        for i in range(2)
    ]
    tables = ingested(write_lines(tmp_path / "d.jsonl", rows), "jsonl")
    learned, asked = (trained_in(style, tables, tmp_path / style) for style in ("detailed_with_stars", "detailed"))
    has_history = pl.col("n_history") > 0
    later, first = learned["targets"].filter(has_history), learned["targets"].filter(~has_history)
    known, probed = (star_metrics([made["scores"]], later)["all"] for made in (learned, asked))
    assert known["rmse"]["high"] < 0.5 < probed["rmse"]["low"]
    assert known["leaked"]["value"] < 0.1 < probed["leaked"]["value"]
    assert star_metrics([learned["scores"]], first)["all"]["rmse"]["low"] > 1
    # The line of stars is not in the text, and what is written there is what is known.
    written = (
        learned["written"].filter(method="greedy").join(later.select("interaction_id", "rating"), on="interaction_id")
    )
    assert written.height and (written["written_rating"] == written["rating"]).all()
    assert not learned["written"]["text"].str.contains(r"\d|\n").any()
    assert asked["written"]["written_rating"].null_count() == asked["written"].height
