"""The demo at its full size, and its counterpart in which there is nothing to find."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.workflow.conftest import ROOT, snakemake

pytestmark = pytest.mark.long  # CI runs all steps on fewer users


def test_the_demo_learns_and_history_helps_on_unseen_users(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["stages"] = {name: config["stages"][name] for name in ("quick", "history")}
    config["evaluation"]["contrasts"] = config["evaluation"]["contrasts"][:2]
    config["generation"] = {"n_targets": 32}
    run = snakemake(tmp_path, config, "report")
    assert run.returncode == 0, run.stdout + run.stderr
    table = pl.read_csv(tmp_path / "results/dmsc/report/stages.csv")
    assert (table["test_nll"] < 0.5 * table["untrained_test_nll"]).all()
    quick, history = table.to_dicts()
    assert history["test_nll_less_first"] < 0
    # The prompt of `quick` hardly tells a user from another; that of `history` does.
    assert history["swap_gap_low"] > max(0, quick["swap_gap_high"])
    assert history["acc_low"] > 0.15
    page = (tmp_path / "results/dmsc/report/index.html").read_text(encoding="utf-8")
    assert "In the primary comparison history is better than quick" in page
    # The stars are asked of a model that never learned to answer: not good enough, and said so.
    assert "None of the 2 stages can be said to write like a particular user" in page
    markdown = (tmp_path / "results/dmsc/report/methods.md").read_text(encoding="utf-8")
    markdown = re.sub(" +", " ", markdown)
    for method in ("damped_bias", "matrix_factorisation", "bm25_neighbour", "n-gram with user cache"):
        assert f"| {method} | baseline |" in markdown


# tests/unit hold the protocol to the same.
def test_where_reviews_have_nothing_of_their_users_nothing_is_found(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"]["dmsc"]["synthetic"]["habits"] = "independent"
    config["stages"] = {"history": config["stages"]["history"]}
    config["evaluation"]["contrasts"] = []
    config["generation"] = {"n_targets": 16}
    metrics = "results/dmsc/evaluation/two_per_user/profile_and_history/tiny/metrics.json"
    run = snakemake(tmp_path, config, metrics)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / metrics).read_text(encoding="utf-8"))["likelihood"]
    assert found["nll"]["value"] < 0.7
    assert found["swap_gap"]["low"] <= 0 <= found["swap_gap"]["high"]
    assert found["acc"]["low"] <= 0.1 <= found["acc"]["high"]
