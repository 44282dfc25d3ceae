"""The training engine against plain torch on the same targets: losses, gradients of every parameter, weights."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from persona.modeling.packing import TokenTable
from persona.training.loop import step_targets
from persona.training.settings import Lora
from tests.workflow.training import (
    LEARNING_RATE,
    MAX_NORM,
    OPTIMIZATION,
    ROOT,
    command,
    deepspeed_file,
    run,
    schedule,
    steps,
    torchrun,
    train,
)

GOLDEN = Path(__file__).parent / "golden_losses.json"


@pytest.fixture(scope="module")
def table(folder: Path) -> TokenTable:
    return TokenTable.read(folder / "tokens.parquet")


class Plain:
    """Three optimizer steps in plain torch, one target at a time."""

    def __init__(self, folder: Path, table: TokenTable) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        groups = [
            {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.first_gradients: dict[str, torch.Tensor] = {}
        for targets in step_targets(table.users, schedule(1), epoch=0):
            n_tokens = int(table.completion_lengths[targets].sum())
            loss = sum((nll(model, table, int(i)) for i in targets), torch.zeros(())) / n_tokens
            optimizer.zero_grad()
            loss.backward()
            if not self.first_gradients:
                named = model.named_parameters()
                self.first_gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
            self.norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)))
            optimizer.step()
            self.losses.append(float(loss.detach()))
        self.weights = model.state_dict()


@pytest.fixture(scope="module")
def plain(folder: Path, table: TokenTable) -> Plain:
    return Plain(folder, table)


def nll(model: torch.nn.Module, table: TokenTable, i: int) -> torch.Tensor:
    ids = torch.tensor(table.ids[table.starts[i] : table.starts[i + 1]].astype(np.int64))
    prompt = int(table.prompt_lengths[i])
    logits = model(input_ids=ids[None], use_cache=False).logits[0, prompt - 1 : -1]
    return functional.cross_entropy(logits, ids[prompt:], reduction="sum")


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (2, 0), (2, 2), (1, 3), (2, 3)], ids=lambda value: str(value))
def test_gradients_of_every_parameter_are_those_of_plain_torch(
    folder: Path, table: TokenTable, plain: Plain, tmp_path: Path, ranks: int, stage: int
) -> None:
    optimization = OPTIMIZATION.model_copy(
        update={"learning_rate": 0.0, "gradient_checkpointing": stage == 3}
    ).model_dump_json()
    lengths = [1, 400, 4000]  # one target a row and so accumulated, several a row, all in one
    script = ["-m", "tests.workflow.gradients", str(folder), str(deepspeed_file(tmp_path, stage))]
    finished = run([*torchrun(ranks), *script, optimization, json.dumps(lengths), str(tmp_path / "found")])
    assert finished.returncode == 0, finished.stderr
    found = torch.load(tmp_path / "found")
    n_targets = len(step_targets(table.users, schedule(1), epoch=0)[0])
    for prefix_sharing in (True, False):
        micro_steps = [found[prefix_sharing, length]["micro_steps"] for length in (lengths[0], lengths[-1])]
        assert micro_steps == [math.ceil(n_targets / ranks), 1]
    assert found[True, 4000]["computed_tokens"] < 0.8 * found[False, 4000]["computed_tokens"]
    for at_length in found.values():
        assert at_length["loss"] == pytest.approx(plain.losses[0], rel=1e-5)
        assert at_length["gradients"].keys() == plain.first_gradients.keys()
        for name, expected in plain.first_gradients.items():
            error = torch.linalg.vector_norm(at_length["gradients"][name] - expected)
            assert error <= 1e-5 * torch.linalg.vector_norm(expected) + 1e-9, name


@pytest.mark.parametrize(
    ("ranks", "max_tokens", "checkpointing", "prefix_sharing"),
    [(1, 400, False, False), (2, 4000, True, True)],
    ids=["one_rank_packed", "two_ranks_long_rows_recomputed_shared"],
)
def test_training_does_what_plain_torch_does(
    folder: Path, plain: Plain, tmp_path: Path, ranks: int, max_tokens: int, checkpointing: bool, prefix_sharing: bool
) -> None:
    name = f"parity_{ranks}"
    optimization = OPTIMIZATION.model_copy(update={"gradient_checkpointing": checkpointing})
    plan = schedule(max_tokens, prefix_sharing=prefix_sharing)
    records = train(command(folder, name, ranks, plan, deepspeed_file(tmp_path, 3), optimization=optimization))
    np.testing.assert_allclose(steps(records, "loss"), plain.losses, rtol=2e-5)
    np.testing.assert_allclose(steps(records, "grad_norm"), plain.norms, rtol=1e-4)
    trained = AutoModelForCausalLM.from_pretrained(folder / name / "model", dtype=torch.float32).state_dict()
    assert trained.keys() == plain.weights.keys()
    for name, weight in trained.items():
        # Adam's first steps divide a gradient by its own size, so a tiny one may move by a step either way.
        close = torch.isclose(weight, plain.weights[name], rtol=1e-4, atol=1e-5).double().mean()
        assert close > 0.999, f"{name}: {close:.4f} of the weights agree"


def test_losses_are_those_of_an_earlier_version(folder: Path, tmp_path: Path, renew_golden: bool) -> None:
    """A change of these is a change of what is trained: renew them with `pytest --renew-golden` and say why."""
    plan = schedule(800).model_copy(update={"max_epochs": 2})
    records = train(command(folder, "golden", 2, plan, deepspeed_file(tmp_path, 3)))
    losses = [record["loss" if record["type"] == "step" else "val_loss"] for record in records]
    if renew_golden:
        GOLDEN.write_text(json.dumps(losses, indent=2) + "\n")
    np.testing.assert_allclose(losses, json.loads(GOLDEN.read_text()), rtol=1e-4)


def test_the_shipped_deepspeed_files_train(folder: Path) -> None:
    """All but the buckets is the same on a CPU: offloaded or not, ZeRO-2 or 3, the losses agree."""
    losses = {}
    for name in ("zero3", "zero3_offload", "zero2"):
        file = ROOT / "config" / "deepspeed" / f"{name}.json"
        losses[name] = steps(train(command(folder, f"shipped_{name}", 2, schedule(800), file)), "loss")
    np.testing.assert_allclose(losses["zero3_offload"], losses["zero3"], rtol=2e-5)
    np.testing.assert_allclose(losses["zero2"], losses["zero3"], rtol=2e-5)


def test_training_stops_when_validation_is_no_longer_better_by_the_threshold(folder: Path, tmp_path: Path) -> None:
    plan = schedule(4000).model_copy(
        update={"max_epochs": 6, "early_stopping_patience": 2, "early_stopping_threshold": 1e6}
    )
    records = train(command(folder, "early_stopping", 1, plan, deepspeed_file(tmp_path, 3)))
    validations = [record for record in records if record["type"] == "val"]
    # The first is better than nothing, the next two are better than it, but not by the threshold.
    assert [v["is_best"] for v in validations] == [True, False, False]
    assert validations[2]["val_loss"] < validations[0]["val_loss"]
    counts = json.loads((folder / "early_stopping" / "manifest.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["best_epoch"], counts["epoch"]) == (1, 3)


@pytest.mark.parametrize(("stage", "dropout"), [(2, 0.1), (3, 0.0)])
def test_adapters_are_trained_alone_and_merged_when_asked(
    folder: Path, table: TokenTable, tmp_path: Path, stage: int, dropout: float
) -> None:
    lora = Lora(r=4, alpha=8, dropout=dropout, target_modules=["q_proj", "v_proj"])
    optimization = OPTIMIZATION.model_copy(update={"learning_rate": 1e-2, "lora": lora})
    plan = schedule(800).model_copy(
        update={"max_epochs": 3, "early_stopping_patience": 3, "prefix_sharing": not dropout}
    )
    name = f"lora_{stage}"
    file = deepspeed_file(tmp_path, stage)
    keep = {"keep_training_state": True}
    records = train(command(folder, name, 2, plan, file, optimization=optimization, export=keep))
    losses = [record["val_loss"] for record in records if record["type"] == "val"]
    assert losses[-1] < losses[0] - 0.02
    assert (folder / name / "model" / "adapter_model.safetensors").exists()
    states = list((folder / name / "run" / "checkpoints").rglob("*.pt"))
    full = (folder / "base" / "model.safetensors").stat().st_size
    assert states and sum(file.stat().st_size for file in states) < full / 2

    merge = {"merge_adapter": True}
    shutil.rmtree(folder / name / "model")
    train(command(folder, name, 2, plan, file, optimization=optimization, export=merge))
    assert not (folder / name / "model" / "adapter_config.json").exists()
    best = folder / name / "run" / f"best_epoch_{int(np.argmin(losses)) + 1}"
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (best, best.parents[1] / "model")
    ]
    with torch.no_grad():
        scores = [float(sum(nll(model.eval(), table, i) for i in range(len(table)))) for model in models]
    n_tokens = table.completion_lengths.sum()
    np.testing.assert_allclose(scores / n_tokens, min(losses), rtol=1e-4)


def test_a_model_with_a_missing_or_unknown_weight_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "base", folder / "damaged")
    weights = load_file(folder / "base" / "model.safetensors")
    lost = weights.pop("model.norm.weight")
    save_file(weights, folder / "damaged" / "model.safetensors", metadata={"format": "pt"})
    plan, file = schedule(800), deepspeed_file(tmp_path, 3)
    finished = run(command(folder, "missing", 1, plan, file, base="damaged"))
    assert "1 weights are missing, the first is model.norm.weight" in finished.stderr
    save_file(
        weights | {"model.norm.weight": lost, "model.extra.weight": lost.clone()},
        folder / "damaged" / "model.safetensors",
        metadata={"format": "pt"},
    )
    finished = run(command(folder, "unexpected", 1, plan, file, base="damaged"))
    assert "1 weights are unexpected, the first is model.extra.weight" in finished.stderr


def test_shared_prefixes_are_refused_where_dropout_would_be_shared(folder: Path, tmp_path: Path) -> None:
    optimization = OPTIMIZATION.model_copy(update={"lora": Lora(r=4, alpha=8, dropout=0.1, target_modules=["q_proj"])})
    finished = run(command(folder, "dropout", 1, schedule(800), deepspeed_file(tmp_path, 3), optimization=optimization))
    assert finished.returncode != 0
    assert "has dropout 0.1: samples that share tokens would share what is dropped; set prefix_sharing: false" in (
        finished.stderr
    )


def test_a_loss_that_is_not_finite_stops_before_a_save(folder: Path, tmp_path: Path) -> None:
    optimization = OPTIMIZATION.model_copy(update={"learning_rate": 1e30})
    finished = run(command(folder, "nan", 1, schedule(800), deepspeed_file(tmp_path, 3), optimization=optimization))
    assert finished.returncode != 0
    message = r"error: step 2: the (loss|gradient norm) is (nan|inf); stopped before a save: lower the learning_rate"
    assert re.search(message, finished.stderr)
    assert not list((folder / "nan" / "run").glob("best_epoch_*"))
    assert not (folder / "nan" / "run" / "latest.json").exists()


def test_gpus_that_are_not_there_are_named(folder: Path, tmp_path: Path) -> None:
    there = torch.cuda.device_count()
    finished = run(command(folder, "gpus", 1, schedule(800), deepspeed_file(tmp_path, 3), gpus=there + 1))
    assert f"error: the recipe asks for gpus: {there + 1} and torch finds {there} here" in finished.stderr
