"""A tiny model of two layers with the tokens of a few targets, and the workflow as a user runs it, on little data."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import yaml

from persona.ingestion.ingest import Ingested
from persona.modeling.tiny import write_tiny_model
from persona.prompts import Parts, PromptSpec, load_style, render
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folder(tables: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tokens.parquet` of 24 targets, three a user, and a model at `base`; trainings put their outputs beside them."""
    folder = tmp_path_factory.mktemp("training")
    reviews = tables.interactions.sort("user_id", "position")
    targets = reviews.filter(pl.len().over("user_id") > 3, pl.col("position").is_between(1, 3)).head(24)
    style = load_style(ROOT / "config" / "prompts" / "detailed.yaml")
    spec = PromptSpec(style, Parts(True, True, True), "T", "C")
    prompts = render(targets, tables.interactions, tables.users, tables.items, spec)
    texts = tables.interactions["text"].to_list()
    write_tiny_model(texts, folder / "base", 500, hidden_size=64, num_hidden_layers=2, num_experts=4, seed=0)
    tokens = tokenize(prompts, load_tokenizer(str(folder / "base")), FitSettings(max_length=400))
    write_table(tokens, folder / "tokens.parquet", schemas.TOKENS)
    return folder


def command(folder: Path, config: dict[str, Any], *arguments: str) -> list[str]:
    """The command that runs the workflow with a configuration, which is written to `folder`, where it is to run."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    return [*start, *arguments, "--configfile", "config.yaml"]


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def snakemake(folder: Path, config: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, config, "--cores", "2", *arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def on_a_small_disk(place: Path, size: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script whose folder `place` is a file system of `size`; what it is to leave it must copy out."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = f'mount -t tmpfs -o size={size} tmpfs "{place}"\n{script}'
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "bash", "-c", mounted],
        cwd=place.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


Terminal = Callable[[list[str], Path], psutil.Popen]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Starts a command as in a terminal of its own, where Ctrl-C reaches all of its processes; ends them with the test.

    What it prints goes to the file `output` of the folder that it runs in.
    """
    started: list[psutil.Popen] = []

    def start(command: list[str], folder: Path) -> psutil.Popen:
        with (folder / "output").open("a") as output:
            # Tests that were started in the background ignore Ctrl-C, and so would what they start.
            process = psutil.Popen(
                command, cwd=folder, env=environment(), stdout=output, stderr=output, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, small_config: dict[str, Any]) -> Path:
    """A folder in which all four stages were trained and evaluated: a copy of what one worker made for all."""
    base = tmp_path_factory.getbasetemp()
    # Workers have their folders beside each other. This one is as deep as those of the tests: a rule names the prompt
    # styles by their path from where it runs, and another path would rerun it.
    shared = (base.with_name("shared") if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    shared.parent.mkdir(exist_ok=True)
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            making = shared.with_name("being-made")
            making.mkdir()
            run = snakemake(making, small_config, "train_all", "evaluate_all")
            assert run.returncode == 0, run.stdout + run.stderr
            making.rename(shared)
    folder = tmp_path_factory.mktemp("workflow")
    shutil.copytree(shared, folder, dirs_exist_ok=True, symlinks=True)
    return folder
