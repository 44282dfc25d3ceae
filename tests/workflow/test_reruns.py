"""What an edit reruns, on a copy of the workflow of which only the data steps are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tests.workflow.test_workflow import ROOT, scheduled


def snakemake(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the copy's Snakefile with the copy's library."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=copy,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def prepared(finished: Path, small_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow and of what it made, without trainings."""
    copy = tmp_path_factory.mktemp("reruns") / "copy"
    for name in ("config", "workflow", "profiles", "src"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", copy)
    # The one in `finished` is that of the last test which ran there.
    (copy / "config" / "config.yaml").write_text(yaml.safe_dump(small_config, allow_unicode=True), encoding="utf-8")
    for name in ("results", ".snakemake"):
        shutil.copytree(finished / name, copy / name)
    for name in ("models", "runs", "evaluation"):
        shutil.rmtree(copy / "results" / "dmsc" / name)
    # The copied workflow's own files are inputs: note them as those that the tables were made from.
    run = snakemake(copy, "--touch", "prepare_all")
    assert run.returncode == 0, run.stdout + run.stderr
    assert scheduled(snakemake(copy, "-n", "prepare_all")) == {}
    return copy


def edited(file: Path, old: str, new: str) -> str:
    """Edit a file; return what it held."""
    before = file.read_text(encoding="utf-8")
    assert old in before
    file.write_text(before.replace(old, new), encoding="utf-8")
    return before


# From new prompts on, to the end of the data steps.
RENDERED = {"render", "audit_prompts", "make_tiny_model", "tokenize", "check_cohorts"}


@pytest.mark.parametrize(
    ("file", "old", "new", "rerun"),
    [
        ("config/prompts/detailed.yaml", "影评：{text}", "短评：{text}", RENDERED),
        ("src/persona/sampling.py", "    targets = reviews_in", "    # Why not.\n    targets = reviews_in", set()),
        ("src/persona/sampling.py", '"""Samples at most N', '"""Samples no more than N', set()),
        (
            "src/persona/sampling.py",
            "(pl.len()).over",
            "(0, pl.len()).over",
            {"sample", "audit_sample"} | RENDERED,
        ),
    ],
    ids=["prompt_style", "comment", "docstring", "code"],
)
def test_an_edit_reruns_what_it_changes(prepared: Path, file: str, old: str, new: str, rerun: set[str]) -> None:
    before = edited(prepared / file, old, new)
    try:
        assert set(scheduled(snakemake(prepared, "-n", "prepare_all"))) - {"prepare_all"} == rerun
    finally:
        (prepared / file).write_text(before, encoding="utf-8")


def test_a_moved_folder_reruns_nothing(prepared: Path) -> None:
    moved = prepared.rename(prepared.with_name("moved"))
    try:
        assert scheduled(snakemake(moved, "-n", "prepare_all")) == {}
    finally:
        moved.rename(prepared)


def test_the_samples_of_the_stages_are_nested(prepared: Path) -> None:
    ids = {
        name: set(pl.read_parquet(prepared / f"results/dmsc/samples/{name}.parquet")["interaction_id"])
        for name in ("two_per_user", "five_per_user", "everything", "val", "test")
    }
    assert ids["two_per_user"] < ids["five_per_user"] < ids["everything"]
    assert not ids["everything"] & (ids["val"] | ids["test"])


def test_the_data_files_have_the_same_bytes_when_rebuilt(prepared: Path) -> None:
    files = sorted((prepared / "results").rglob("*.parquet"))
    before = {file: file.read_bytes() for file in files}
    assert len(files) > 15
    assert snakemake(prepared, "prepare_all", "--forceall").returncode == 0
    assert [file for file in files if file.read_bytes() != before[file]] == []
