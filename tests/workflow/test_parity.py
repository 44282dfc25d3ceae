"""The training engine against plain torch: one optimizer step on the same targets."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from persona import artefacts
from persona.ingest import Ingested
from persona.modeling.packing import TokenTable
from persona.modeling.tiny import write_tiny_model
from persona.prompts import Parts, load_style, render
from persona.tokenization import load_tokenizer, tokenize
from persona.training.loop import Schedule, step_targets

ROOT = Path(__file__).parents[2]
LEARNING_RATE = 1e-3
MAX_NORM = 1.0


@pytest.fixture(scope="module")
def folder(tables: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of 24 targets and a tiny model of two layers."""
    folder = tmp_path_factory.mktemp("parity")
    targets = tables.interactions.filter(pl.col("position") == 2).head(24)
    style = load_style(ROOT / "config" / "prompts" / "detailed.yaml")
    prompts = render(targets, tables.interactions, tables.users, tables.items, style, Parts(True, True, True), "T", "C")
    texts = tables.interactions["text"].to_list()
    write_tiny_model(texts, folder / "base", 500, hidden_size=64, num_hidden_layers=2, num_experts=4, seed=0)
    tokens = tokenize(prompts, load_tokenizer(str(folder / "base")), 400)
    artefacts.write_table(tokens, folder / "tokens.parquet", artefacts.TOKENS)
    return folder


def train(
    folder: Path, name: str, ranks: int, stage: int, plan: Schedule, checkpointing: bool = False
) -> list[dict[str, Any]]:
    """Train with the real command; the records of its log. The outputs are in `folder / name`."""
    out = folder / name
    out.mkdir()
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    (out / "deepspeed.json").write_text(json.dumps({"zero_optimization": zero}))
    optimization = {
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_ratio": 0.0,
        "weight_decay": 0.1,
        "max_grad_norm": MAX_NORM,
        "gradient_checkpointing": checkpointing,
    }
    arguments = {
        "train-tokens": folder / "tokens.parquet",
        "val-tokens": folder / "tokens.parquet",
        "deepspeed": out / "deepspeed.json",
        "run-folder": out / "run",
        "model": out / "model",
        "train-log": out / "log.jsonl",
        "manifest": out / "manifest.json",
        "base-model": folder / "base",
        "optimization": json.dumps(optimization),
        "schedule": json.dumps(asdict(plan)),
        "factors": "{}",
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    options = [text for key, value in arguments.items() for text in (f"--{key}", str(value))]
    command = [sys.executable, *launcher, str(ROOT / "workflow" / "scripts" / "train.py"), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in (out / "log.jsonl").open()]


def schedule(max_tokens: int) -> Schedule:
    return Schedule(
        samples_per_step=8,
        max_tokens_per_gpu=max_tokens,
        max_epochs=1,
        early_stopping_patience=1,
        early_stopping_threshold=0.0,
        checkpoint_every_steps=None,
        seed=3,
    )


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Losses, gradient norms and weights of the same three steps in plain torch, one target at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    table = TokenTable.from_frame(artefacts.read_table(folder / "tokens.parquet", artefacts.TOKENS))
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))
    losses, norms = [], []
    for targets in step_targets(len(table), schedule(1), epoch=0):
        n_tokens = int(table.completion_lengths[targets].sum())
        loss = sum((nll(model, table, int(i)) for i in targets), torch.zeros(())) / n_tokens
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms, model.state_dict()


def nll(model: torch.nn.Module, table: TokenTable, i: int) -> torch.Tensor:
    ids = torch.tensor(table.ids[table.starts[i] : table.starts[i + 1]].astype(np.int64))
    prompt = int(table.prompt_lengths[i])
    logits = model(input_ids=ids[None], use_cache=False).logits[0, prompt - 1 : -1]
    return functional.cross_entropy(logits, ids[prompt:], reduction="sum")


@pytest.mark.parametrize(
    ("ranks", "stage", "max_tokens", "checkpointing"),
    [(1, 3, 400, False), (2, 3, 400, False), (2, 3, 4000, True), (2, 2, 800, False)],
    ids=["one_rank", "two_ranks", "two_ranks_long_rows_recomputed", "two_ranks_zero2"],
)
def test_the_engine_does_what_plain_torch_does(
    folder: Path,
    plain: tuple[list[float], list[float], dict[str, torch.Tensor]],
    ranks: int,
    stage: int,
    max_tokens: int,
    checkpointing: bool,
) -> None:
    name = f"{ranks}_{stage}_{max_tokens}"
    records = train(folder, name, ranks, stage, schedule(max_tokens), checkpointing)
    steps = [record for record in records if record["type"] == "step"]
    losses, norms, weights = plain
    np.testing.assert_allclose([s["loss"] for s in steps], losses, rtol=2e-5)
    np.testing.assert_allclose([s["grad_norm"] for s in steps], norms, rtol=1e-4)
    trained = AutoModelForCausalLM.from_pretrained(folder / name / "model", dtype=torch.float32).state_dict()
    assert trained.keys() == weights.keys()
    for name, weight in trained.items():
        # Adam's first steps divide a gradient by its own size, so a tiny one may move by a step either way.
        close = torch.isclose(weight, weights[name], rtol=1e-4, atol=1e-5).double().mean()
        assert close > 0.999, f"{name}: {close:.4f} of the weights agree"


def test_training_stops_when_validation_is_no_longer_better_by_the_threshold(folder: Path) -> None:
    plan = replace(schedule(4000), max_epochs=6, early_stopping_patience=2, early_stopping_threshold=1e6)
    records = train(folder, "early_stopping", 1, 3, plan)
    validations = [record for record in records if record["type"] == "val"]
    # The first is better than nothing, the next two are better than it, but not by the threshold.
    assert [v["is_best"] for v in validations] == [True, False, False]
    assert validations[2]["val_loss"] < validations[0]["val_loss"]
    counts = json.loads((folder / "early_stopping" / "manifest.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["best_epoch"], counts["epoch"]) == (1, 3)
