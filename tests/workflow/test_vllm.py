"""vLLM in an environment of its own, where it is installed (`make vllm`): it writes what transformers writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import polars as pl
import psutil
import pytest

from persona.evaluation.generation import generate_reviews
from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork
from persona.evaluation.settings import GenerationSettings
from persona.inference.writer import one_process
from persona.study import Stage, Study
from persona.tables import schemas
from persona.tables.parquet import read_table
from tests.workflow.conftest import ROOT, environment

VLLM = Path(os.environ.get("VLLM_PYTHON", ROOT / ".venv/vllm/bin/python"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM.exists(), reason="vLLM has no environment here; make vllm"),
]


@pytest.fixture
def stage(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(finished)
    return Study.load(None).stage("history")


def test_texts_are_those_of_transformers_where_nothing_is_drawn(stage: Stage) -> None:
    tokens = read_table(stage.tokens("test"), schemas.TOKENS).head(8)
    tables = {}
    with one_process():
        for backend in ("transformers", "vllm"):
            settings = GenerationSettings(n_samples=2, max_new_tokens=24, backend=backend, vllm_python=str(VLLM))
            model = EvaluatedModel(str(stage.model))
            tables[backend] = generate_reviews(model, tokens, settings, ResumableWork(None, {})).sort(
                "interaction_id", "method", "draw"
            )
    one, other = tables["transformers"], tables["vllm"]
    assert other.select("interaction_id", "method", "draw").equals(one.select("interaction_id", "method", "draw"))
    greedy = [table.filter(method="greedy").drop("written_by") for table in (one, other)]
    assert greedy[0].equals(greedy[1])
    assert other["written_by"].str.starts_with("vllm").all() and one["written_by"].str.starts_with("transformers").all()
    # Each text has a seed of its own.
    drawn = other.filter(method="sample").group_by("interaction_id").agg(pl.col("text").n_unique())
    assert (drawn["text"] == 2).any()


@pytest.fixture
def server(stage: Stage) -> Iterator[str]:
    """The address of a server that was started as docs/serving.md says, with what a CPU needs besides."""
    command = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--generation-config", "vllm"]
    command += ["--max-model-len", "256", "--model", str(stage.model), "--served-model-name", "history"]
    command += ["--port", "8917", "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
    command += ["--gpu-memory-utilization", "0.3"]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = "http://127.0.0.1:8917"
    deadline = time.monotonic() + 240
    while True:
        try:
            urlopen(f"{address}/health", timeout=2)
            break
        except OSError:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(1)
    yield address
    for each in [*process.children(recursive=True), process]:
        each.kill()
    process.wait()


def test_a_request_with_a_rendered_prompt_gets_the_text_that_the_stage_writes(stage: Stage, server: str) -> None:
    target = (
        read_table(stage.evaluated() / "generations.parquet", schemas.GENERATIONS)
        .filter(method="greedy")
        .row(0, named=True)
    )
    ask = [sys.executable, "-m", "persona", "write", "--stage", "history", "--target", str(target["interaction_id"])]
    asked = [
        subprocess.run([*ask, *options], env=environment(), capture_output=True, text=True, check=True).stdout
        for options in (["--samples", "0", "--print-request"], ["--print-prompt"])
    ]
    chat: dict[str, object] = {"model": "history", "messages": [{"role": "user", "content": asked[1].rstrip("\n")}]}
    chat |= {"max_tokens": 64, "temperature": 0}
    bodies = {"completions": asked[0], "chat/completions": json.dumps(chat)}
    for endpoint, body in bodies.items():
        request = Request(f"{server}/v1/{endpoint}", body.encode(), {"Content-Type": "application/json"})
        choice = json.loads(urlopen(request).read())["choices"][0]
        text = choice["text"] if endpoint == "completions" else choice["message"]["content"]
        assert text == target["text"]
