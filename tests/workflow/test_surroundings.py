"""The machine around the workflow: dates, modules, locales, cores and models that are not there."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from persona.modeling.tiny import write_tiny_model
from tests.workflow.conftest import command, environment

CONFIG: dict[str, Any] = {
    "dataset": "hotels",
    "datasets": {
        "hotels": {
            "format": "jsonl",
            "path": "data/hotels.jsonl",
            "task": "写一篇评论",
            "cue": "评论：",
            "rating_cue": "星：",
        }
    },
    "split": {"val_ratio": 0.3, "test_ratio": 0.2},
    "samples": {"everything": {"max_samples_per_user": None}},
    "ablations": {
        "profile": {"use_profile": True, "use_history": False, "use_context": False, "prompt_style": "english"}
    },
    "models": {"base": {"path": "base", "max_length": 1024}},
    "recipes": {"one": {"model": "base", "deepspeed": "zero3_cpu", "cpu_processes": 1}},
    "stages": {"profile": {"sample": "everything", "ablation": "profile", "recipe": "one"}},
}
PROMPTS = "results/hotels/prompts/everything/profile.parquet"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with raw data and a model."""
    rows = [
        {"user": f"u{u}", "item": f"i{i}", "day": "2024-01-02", "text": f"fine {u} {i}"}
        for u in range(12)
        for i in range(2)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hotels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_tiny_model(["a hotel"], tmp_path / "base", 300, 32, num_hidden_layers=1, num_experts=2, seed=0)
    return tmp_path


def run(
    place: Path, *arguments: str, config: dict[str, Any] = CONFIG, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(place, config, "--cores", "3", *arguments),
        cwd=place,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", ["data/hotels.jsonl", "base"])
def test_what_is_dated_in_the_future_is_named_before_any_job(place: Path, name: str) -> None:
    """Snakemake would delete all that is made of it, and blame the network."""
    later = time.time() + 8 * 3600
    os.utime(place / name, (later, later))
    done = run(place, "train_all")
    assert done.returncode != 0 and not (place / "results").exists()
    assert f"error: {name} is dated in the future by " in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"touch {name}")


def test_modules_of_a_cluster_reach_the_jobs_in_any_locale(place: Path) -> None:
    module = place / "module"
    module.mkdir()
    (module / "sitecustomize.py").write_text(
        f"import sys\nopen({str(place / 'started')!r}, 'a').write(f'{{sys.orig_argv}} {{sys.flags.utf8_mode}}\\n')\n"
    )
    path = os.pathsep.join([str(module), os.environ.get("PYTHONPATH", "")])
    locale: dict[str, Any] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run(place, PROMPTS, PYTHONPATH=path, **locale)
    assert done.returncode == 0, done.stderr
    started = (place / "started").read_text().splitlines()
    assert any("render.py" in line and line.endswith(" 1") for line in started)
    assert pl.read_parquet(place / PROMPTS)["prompt"].str.contains("写一篇评论").all()


def test_a_path_that_the_locale_cannot_write_is_refused(place: Path) -> None:
    config = CONFIG | {"models": {"base": {"path": "modèle", "max_length": 1024}}}
    done = run(place, "-n", config=config, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert "is not ASCII, and the encoding of this locale is ascii" in done.stderr.splitlines()[-1]


def test_one_process_of_a_real_model_has_all_cores(place: Path) -> None:
    done = run(place, "-n", "train_all")
    assert done.returncode == 0, done.stderr
    assert "threads: 3" in done.stdout + done.stderr


def test_a_model_that_is_nowhere_is_named_before_any_job(place: Path) -> None:
    config = CONFIG | {"models": {"base": {"path": "models/bsae", "max_length": 1024}}}
    done = run(place, "train_all", config=config, HF_HUB_OFFLINE="1")
    assert done.returncode != 0 and not (place / "results").exists()
    assert done.stderr.splitlines()[-1].startswith("error: models/bsae: there is no such model (")


def test_incomplete_weights_are_named_before_any_job(place: Path) -> None:
    os.truncate(place / "base" / "model.safetensors", 1000)
    done = run(place, "-n", "train_all")
    assert "configuration: models.base.path: base/model.safetensors: only a part of a file" in done.stderr
