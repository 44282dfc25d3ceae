"""The memory of the host that each process needs to check and load a model that ZeRO-3 partitions."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import Qwen3MoeForCausalLM

from persona.modeling.loading import load_config
from persona.modeling.tiny import moe_config, train_tokenizer
from tests.workflow.training import ROOT, torchrun

pytestmark = pytest.mark.long  # what it shows changes with the version of transformers alone, which is pinned

# Blocks of this size and more go back to the system when they are freed, as those of a large model's weights do.
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
REST = 12e6  # bytes: buffers of the processes' messages, and objects of Python


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small and a large model of 161 MB, of which no weight has more than 9 MB."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["a film to see again"] * 5, 300)
    for name, sizes in (("small", (64, 1, 4)), ("large", (256, 12, 32))):
        torch.manual_seed(0)
        Qwen3MoeForCausalLM(moe_config(tokenizer, *sizes)).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_rank_0_reads_and_the_others_hold_their_part_alone(models: Path, tmp_path: Path, ranks: int) -> None:
    """Rank 0 maps the file as a whole, and these pages the system can take back.

    Besides, a process holds its part and a few weights at a time: the experts of a layer are fused, sent and divided.
    """
    first, *others = measure(models, tmp_path, ranks, spread=False)
    with torch.device("meta"):
        model = Qwen3MoeForCausalLM(load_config(str(models / "large")))
    sizes = [p.nbytes for p in model.parameters()]
    holds(first, others, sum(sizes) / ranks, sizes)
    assert len(others) == ranks - 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_with_spread_experts_no_process_holds_more(models: Path, tmp_path: Path, ranks: int) -> None:
    """While weights are exchanged for whole ones or for own experts, the divided ones are let go of one by one."""
    first, *others = measure(models, tmp_path, ranks, spread=True)
    with torch.device("meta"):
        named = list(Qwen3MoeForCausalLM(load_config(str(models / "large"))).named_parameters())
    sizes = [p.nbytes for _, p in named]
    experts = sum(p.nbytes for name, p in named if ".experts." in name)
    holds(first, others, sum(sizes) - experts + experts / ranks, sizes)


def holds(first: dict[str, float], others: list[dict[str, float]], own: float, sizes: list[int]) -> None:
    """Each process holds its own weights, and while it loads a few more; the first one also has the file mapped."""
    largest = max(sizes)
    for found in (first, *others):
        assert found["held"] == pytest.approx(own, abs=REST)
    for found in others:
        assert found["peak"] < own + 2 * largest + REST
    assert first["peak"] < own + sum(sizes) + 4 * largest + REST


def measure(models: Path, folder: Path, ranks: int, spread: bool) -> list[dict[str, float]]:
    """The figures of each rank."""
    command = [*torchrun(ranks), "-m", "tests.workflow.loading_memory", str(models / "small"), str(models / "large")]
    run = subprocess.run(
        [*command, str(int(spread)), str(folder / "figures.json")],
        cwd=ROOT, env=os.environ | FREED_AT_ONCE, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    figures: list[dict[str, float]] = json.loads((folder / "figures.json").read_text())
    return figures
