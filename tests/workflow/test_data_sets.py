"""Data sets other than the default one, as their users run them."""

from __future__ import annotations

import copy
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tests.conftest import REAL_DATA
from tests.workflow.conftest import ROOT, snakemake


def test_the_page_about_ones_own_data_is_true(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    lines, configuration = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("json", "yaml"))
    assert lines and configuration
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hotels.jsonl").write_text(lines[1], encoding="utf-8")
    run = snakemake(tmp_path, yaml.safe_load(configuration[1]), "prepare_all", "train_history")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "data" / "hotels.jsonl").read_text(encoding="utf-8") == lines[1]
    results = tmp_path / "results" / "hotels"
    counts = json.loads((results / "ingest.json").read_text(encoding="utf-8"))
    assert counts == {"rows": 14, "kept": 14, "rejected": 0, "reasons": {}, "users": 8, "items": 3}
    preview = (results / "tokens/everything/profile_and_history/tiny.preview.txt").read_text(encoding="utf-8")
    assert ">>>She said yes again.<|im_end|><<<" in preview
    assert "[HISTORY]\n1. [Seeblick] 2024-02-14 stars: 5.0 text: She said yes.\n" in preview
    assert (results / "models/everything/profile_and_history/tiny/model/config.json").exists()
    for name in ("ingest.log", "tokens/everything/profile_and_history/tiny.preview.txt", "config/prompts/english.yaml"):
        assert name in page


@pytest.fixture(scope="module")
def dialogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Profile with context on the real slice, trained for an epoch, scored and reported; prompts without it as well."""
    if not (REAL_DATA / "chameleons").exists():
        pytest.skip("the real slice chameleons/ is not beside this repository")
    config: dict[str, Any] = yaml.safe_load((ROOT / "config" / "chameleons.yaml").read_text(encoding="utf-8"))
    config["datasets"]["chameleons"]["path"] = str(REAL_DATA / "chameleons")
    config["recipes"]["tiny"]["max_epochs"] = 1
    config["cohorts"] = {name: {"max_users": 60, "max_samples_per_user": 1} for name in ("val", "test")}
    config["generation"] = {"n_targets": 8, "max_new_tokens": 16}
    config["stages"] = {"quick": config["stages"]["quick"]}
    config["evaluation"] |= {"contrasts": [], "together": True}
    folder = tmp_path_factory.mktemp("dialogue")
    files = {file: file.read_bytes() for file in (REAL_DATA / "chameleons").rglob("*") if file.is_file()}
    run = snakemake(folder, config, "report", "results/chameleons/prompts/two_per_user/profile.parquet")
    assert run.returncode == 0, run.stdout + run.stderr
    assert all(file.read_bytes() == content for file, content in files.items()), "raw files were changed"
    return folder / "results" / "chameleons"


def test_dialogue_is_split_by_film(dialogue: Path) -> None:
    films = [set(pl.read_parquet(dialogue / "samples" / f"{name}.parquet")["item_id"])
             for name in ("two_per_user", "val", "test")]  # fmt: skip
    assert min(map(len, films)) >= 2
    assert not films[0] & films[1] and not films[0] & films[2] and not films[1] & films[2]


def test_prompts_of_dialogue_are_in_english_and_hold_the_conversation(dialogue: Path) -> None:
    prompts = pl.read_parquet(dialogue / "prompts/two_per_user/profile_and_context.parquet")
    assert not prompts["prompt"].str.contains(r"\p{Han}").any()
    with_context = prompts.filter(pl.col("n_context") > 0)
    assert with_context.height > prompts.height / 3
    assert with_context["prompt"].str.contains(r"(?s)\[CONVERSATION\]\n.+\n\nThe character says:$").all()
    assert not pl.read_parquet(dialogue / "prompts/two_per_user/profile.parquet")["n_context"].sum()


def test_the_conversation_stays_where_the_user_is_exchanged(dialogue: Path) -> None:
    prompts = pl.read_parquet(dialogue / "prompts/impostors/profile_and_context.parquet")
    assert prompts["n_context"].max() > 0  # type: ignore[operator]
    asked = pl.read_parquet(dialogue / "prompts/test/profile_and_context.parquet")
    without_user = pl.read_parquet(dialogue / "prompts/test/context_alone_dialogue.parquet")
    end = pl.col("prompt").str.extract(r"(?s)(\[TASK\].*)").alias("end")
    both = prompts.select("interaction_id", "completion", "user_id", end)
    for other in (asked, without_user):
        found = both.join(other.select("interaction_id", "completion", end), on=["interaction_id", "completion", "end"])
        assert found.height == prompts.height
    assert both.join(asked, on=["interaction_id", "user_id"]).is_empty()
    assert without_user["prompt"].str.starts_with("[TASK]").all()
    run = dialogue / "evaluation/two_per_user/profile_and_context/tiny"
    scores = pl.read_parquet(run / "scores.parquet").filter(pl.col("cohort") == "test")
    targets = pl.read_parquet(dialogue / "targets.parquet").select("interaction_id", "n_context")
    pairs = scores.select("interaction_id", impostor="impostor_ids").explode("impostor").drop_nulls()
    pairs = pairs.join(targets, on="interaction_id").join(targets, left_on="impostor", right_on="interaction_id")
    assert pairs.filter(pl.max_horizontal("n_context", "n_context_right") > 0).height == prompts.height > 0


def test_a_report_without_stars_has_no_parts_for_them(dialogue: Path) -> None:
    page = (dialogue / "report" / "index.html").read_text(encoding="utf-8")
    assert "<svg" in page and 'src="http' not in page and 'href="http' not in page
    learned = pl.read_csv(dialogue / "report" / "stages.csv")
    assert learned["test_nll"].item() < learned["untrained_test_nll"].item()
    assert not re.search(r"\bstars?\b|星级", page)
    for table in ("stages", "methods"):
        columns = pl.read_csv(dialogue / "report" / f"{table}.csv").columns
        assert not {"rmse", "mae", "qwk", "rps", "ece", "tau", "leaked"} & set(columns)
    assert "19,768 rows were read: 19,766 were kept, of 628 users and 40 items, and 2 were rejected." in page
    evaluated = dialogue / "evaluation" / "two_per_user" / "profile_and_context" / "tiny"
    metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    # Three films are too few for an interval.
    gap = metrics["likelihood"]["swap_gap"]
    assert gap["value"] is not None and gap["low"] is None and gap["note"] == "no interval: only 3 items"
    plots = {file.stem for file in (dialogue / "report" / "plots").iterdir()}
    assert "nll_by_stage" in plots and not plots & {"reliability", "error_by_star"}


@pytest.mark.long  # tests/unit compares the steps with and without buckets in seconds
def test_three_jobs_make_the_same_bytes_as_one(tmp_path: Path, small_config: dict[str, Any]) -> None:
    config = copy.deepcopy(small_config) | {"buckets": 3}
    # Of a part of the users more are chosen than there is room for.
    config["cohorts"]["test"]["max_users"] = 3
    config["samples"]["everything"] |= {"max_users": 20, "min_history": 1}
    config["datasets"]["dmsc"]["min_reviews_per_user"] = 2
    tokens = ["tokens/test/profile_and_history/tiny_qwen3_moe.parquet",
              "tokens/everything/profile_and_history/tiny_qwen3_moe.parquet"]  # fmt: skip
    run = snakemake(tmp_path, config, *(f"results/dmsc/{file}" for file in tokens))
    assert run.returncode == 0, run.stdout + run.stderr
    for rule in ("build_tables", "split_bucket", "sample_bucket", "render_bucket", "tokenize_bucket"):
        assert f" {rule} " in run.stderr
    assert "3-of-3" in run.stderr
    several = tmp_path / "results" / "dmsc"
    assert not [file for file in several.rglob("*-of-*.*") if not {"logs", "benchmarks"} & set(file.parts)]

    (tmp_path / "one").mkdir()
    run = snakemake(tmp_path / "one", config | {"buckets": 1}, *(f"results/dmsc/{file}" for file in tokens))
    assert run.returncode == 0, run.stdout + run.stderr
    one = tmp_path / "one" / "results" / "dmsc"
    made = [file.relative_to(one) for file in one.rglob("*") if file.suffix in (".parquet", ".json", ".txt")]
    assert len(made) > 12 and Path("rejects.parquet") in made and Path("samples/test.parquet") in made
    for file in made:
        assert (several / file).read_bytes() == (one / file).read_bytes(), file
    assert pl.read_parquet(one / "samples" / "test.parquet")["user_id"].n_unique() == 3
    trained = pl.read_parquet(one / "samples" / "everything.parquet")["user_id"].unique()
    n_reviews = pl.read_parquet(one / "interactions.parquet").group_by("user_id").len()
    left_out = pl.read_parquet(one / "split.parquet").filter(pl.col("split") == "left_out")["user_id"]
    assert len(trained) == 20 and not set(trained) & set(left_out)
    assert set(left_out) == set(n_reviews.filter(pl.col("len") < 2)["user_id"]) != set()
    prompts = pl.read_parquet(one / "prompts/everything/profile_and_history.parquet")
    assert prompts["history_ids"].list.len().min() == 1


@pytest.mark.parametrize("by", ["time", "item"])
def test_known_users_are_tested_later_or_on_unseen_films(tmp_path: Path, small_config: dict[str, Any], by: str) -> None:
    times = {"by": "time", "val_from": "2015-10-01", "test_from": "2016-06-01"}
    split = times if by == "time" else {"by": "item", "val_ratio": 0.15, "test_ratio": 0.2}
    prompts = {name: f"prompts/{name}/profile_and_history.parquet" for name in ("everything", "test")}
    audits = [
        "audit/everything.json",
        *(path.replace("prompts", "audit").replace("parquet", "json") for path in prompts.values()),
    ]
    run = snakemake(tmp_path, small_config | {"split": split}, *(f"results/dmsc/{file}" for file in audits))
    assert run.returncode == 0, run.stdout + run.stderr
    results = tmp_path / "results" / "dmsc"
    reviews = pl.read_parquet(results / "interactions.parquet").select("interaction_id", "item_id", "day")
    trained, tested = (pl.read_parquet(results / path) for path in prompts.values())
    assert trained.join(tested, on="user_id", how="semi").height > 5
    shown = pl.concat([trained["interaction_id"], trained["history_ids"].explode().drop_nulls()]).unique()
    seen = reviews.filter(pl.col("interaction_id").is_in(shown.implode()))
    if by == "time":
        assert seen["day"].max() < date(2015, 10, 1)  # type: ignore[operator]
        assert tested.join(reviews, on="interaction_id")["day"].min() >= date(2016, 6, 1)  # type: ignore[operator]
    else:
        assert not set(seen["item_id"]) & set(tested["item_id"])
    past = tested.explode("history_ids").join(reviews, left_on="history_ids", right_on="interaction_id")
    assert past["history_ids"].is_in(seen["interaction_id"].implode()).any(), "known users show what was trained on"


def test_pseudonymised_names_are_in_no_table_below_ingest(tmp_path: Path, small_config: dict[str, Any]) -> None:
    config = copy.deepcopy(small_config)
    config["datasets"]["dmsc"]["pseudonymise"] = True
    preview = "results/dmsc/tokens/test/profile_and_history/tiny_qwen3_moe.preview.txt"
    run = snakemake(tmp_path, config, preview, "results/dmsc/audit/two_per_user/profile_and_history.json")
    assert run.returncode == 0, run.stdout + run.stderr
    results = tmp_path / "results" / "dmsc"
    raw = pl.read_csv(results / "raw" / "DMSC.csv", infer_schema=False)
    names = [name for name in raw["Username"].unique() if name and len(name) > 3 and name != "null"]
    assert len(names) > 50
    files = [file for file in results.rglob("*") if file.suffix in (".parquet", ".txt", ".csv", ".json", ".log")]
    below = [file for file in files if file.name not in ("rejects.parquet", "DMSC.csv")]
    assert len(below) > 12
    for file in below:
        text = str(pl.read_parquet(file).to_dicts()) if file.suffix == ".parquet" else file.read_text(encoding="utf-8")
        assert not [name for name in names if name in text], file
