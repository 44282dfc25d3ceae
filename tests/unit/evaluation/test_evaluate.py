"""All steps of an evaluation in one process, on data whose ratings are of some other scale, or of none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch.distributed as dist

from persona.evaluation.baselines.baselines import all_baselines
from persona.evaluation.claims import claim
from persona.evaluation.evaluate import evaluate_model
from persona.evaluation.metrics.summary import baseline_metrics, stage_metrics
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.scoring.cohort import CohortFiles
from persona.evaluation.settings import GenerationSettings
from persona.evaluation.targets import build_targets
from persona.ingestion.ingest import Ingested
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

USERS, ITEMS, CANDIDATES = 24, 4, 3
GENERATION = GenerationSettings(n_targets=3, n_samples=1, max_new_tokens=4)


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


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


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("style", ["detailed", "detailed_with_stars"])
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
    assert claim([scores], baselines.authors, baselines.ratings, targets, CANDIDATES).conditions
    others = scale in ("zero_to_ten", "half_stars", "negative")
    found = [message for message in caplog.messages if "not asked for" in message]
    assert len(found) == others
    asked = scores.filter(pl.col("cohort") == "test")["stars"]
    assert asked.null_count() == (asked.len() if others or not targets["rating"].count() else 0)
    assert ("rmse" in metrics["stars"]["all"]) == (
        asked.count() > 0 and scale != "one_rating" or "rmse" in metrics["stars"]["all"]
    )
    if scale in ("zero_to_ten", "half_stars", "negative", "constant", "some"):
        mean = measured["ratings"]["global_mean"]
        assert mean["rmse"]["value"] >= 0 and ("qwk" in mean) == (not others)
        guesses, known = baselines.ratings["rating"], tables.interactions["rating"].drop_nulls()
        assert known.min() <= guesses.min() and guesses.max() <= known.max()  # type: ignore[operator]
