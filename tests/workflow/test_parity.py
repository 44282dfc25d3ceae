"""The training engine against plain torch on the same targets: losses, gradients of every parameter, weights.

All trainings on one rank run in one launch, and so do all on two: `one_rank` and `two_ranks` are what they printed.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from persona.modeling.packing import TokenTable
from persona.training.logs import read_log
from persona.training.loop import step_targets
from persona.training.settings import Lora
from tests.workflow.training import (
    LEARNING_RATE,
    MAX_NORM,
    OPTIMIZATION,
    ROOT,
    arguments,
    command,
    deepspeed_file,
    gradients,
    run,
    run_several,
    schedule,
    steps,
    train,
)

GOLDEN = Path(__file__).parent / "golden_losses.json"
ROW_LENGTHS = [1, 400, 4000]  # one target a row and so accumulated, several a row, all in one
SHIPPED = ("zero3", "zero3_offload", "zero2")


@pytest.fixture(scope="module")
def table(folder: Path) -> TokenTable:
    return TokenTable.read(folder / "tokens.parquet")


class Plain:
    """Three optimizer steps in plain torch, one target at a time."""

    def __init__(self, folder: Path, table: TokenTable, base: str = "base") -> None:
        model = AutoModelForCausalLM.from_pretrained(folder / base, dtype=torch.float32)
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


def gradients_of(folder: Path, ranks: int, stage: int) -> list[str]:
    optimization = OPTIMIZATION.model_copy(update={"gradient_checkpointing": stage == 3})
    return gradients(folder, f"gradients_{ranks}_{stage}", stage, ROW_LENGTHS, optimization)


def damaged(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """A copy of the model with a change of its weights."""
    shutil.copytree(folder / "base", folder / name)
    weights = load_file(folder / "base" / "model.safetensors")
    change(weights)
    save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})
    return name


@pytest.fixture(scope="module")
def one_rank(folder: Path) -> dict[str, str]:
    file, plan = deepspeed_file(folder, 3), schedule(800)
    long_rows = schedule(4000).model_copy(
        update={"max_epochs": 6, "early_stopping_patience": 2, "early_stopping_threshold": 1e6}
    )
    dropout = OPTIMIZATION.model_copy(update={"lora": Lora(r=4, alpha=8, dropout=0.1, target_modules=["q_proj"])})
    missing = damaged(folder, "damaged_missing", lambda weights: weights.pop("model.norm.weight"))
    unexpected = damaged(
        folder,
        "damaged_unexpected",
        lambda weights: weights.update({"model.extra.weight": weights["model.norm.weight"].clone()}),
    )
    commands = {
        "gradients_1_0": gradients_of(folder, 1, 0),
        "gradients_1_3": gradients_of(folder, 1, 3),
        "parity_1": arguments(folder, "parity_1", schedule(400, prefix_sharing=False), file),
        "early_stopping": arguments(folder, "early_stopping", long_rows, file),
        "missing": arguments(folder, "missing", plan, file, base=missing),
        "unexpected": arguments(folder, "unexpected", plan, file, base=unexpected),
        "dropout": arguments(folder, "dropout", plan, file, optimization=dropout),
        "nan": arguments(
            folder, "nan", plan, file, optimization=OPTIMIZATION.model_copy(update={"learning_rate": 1e30})
        ),
    }
    return run_several(1, commands, folder / "one_rank.json")


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> dict[str, str]:
    file, recomputed = deepspeed_file(folder, 3), OPTIMIZATION.model_copy(update={"gradient_checkpointing": True})
    commands = {
        "gradients_2_0": gradients_of(folder, 2, 0),
        "gradients_2_2": gradients_of(folder, 2, 2),
        "gradients_2_3": gradients_of(folder, 2, 3),
        "parity_2": arguments(folder, "parity_2", schedule(4000), file, optimization=recomputed),
        "golden": arguments(folder, "golden", schedule(800, max_epochs=2), file),
    }
    for name in SHIPPED:
        shipped = ROOT / "config" / "deepspeed" / f"{name}.json"
        commands[f"shipped_{name}"] = arguments(folder, f"shipped_{name}", schedule(800), shipped)
    for stage, dropout in ((2, 0.1), (3, 0.0)):
        lora = Lora(r=4, alpha=8, dropout=dropout, target_modules=["q_proj", "v_proj"])
        optimization = OPTIMIZATION.model_copy(update={"learning_rate": 1e-2, "lora": lora})
        plan = schedule(800, max_epochs=3, early_stopping_patience=3, prefix_sharing=not dropout)
        for name, merge in ((f"lora_{stage}", False), (f"lora_{stage}_merged", True)):
            export = {"merge_adapter": merge, "keep_training_state": True}
            commands[name] = arguments(
                folder, f"lora_{stage}", plan, deepspeed_file(folder, stage), optimization=optimization, export=export
            )
        # The same run folder, another place for the model.
        commands[name][commands[name].index("--model") + 1] = str(folder / f"lora_{stage}" / "merged")
    return run_several(2, commands, folder / "two_ranks.json")


@pytest.fixture
def printed(request: pytest.FixtureRequest, ranks: int) -> dict[str, str]:
    """What the commands on this number of ranks printed."""
    of_all: dict[str, str] = request.getfixturevalue({1: "one_rank", 2: "two_ranks"}[ranks])
    return of_all


def records_of(folder: Path, name: str, printed: dict[str, str]) -> list[dict[str, Any]]:
    """The log of a training, which must have come to its end."""
    assert printed[name].endswith("exit status 0\n"), printed[name]
    return read_log(folder / name / "log.jsonl")


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (2, 0), (2, 2), (1, 3), (2, 3)], ids=lambda value: str(value))
def test_gradients_of_every_parameter_are_those_of_plain_torch(
    folder: Path, table: TokenTable, plain: Plain, printed: dict[str, str], ranks: int, stage: int
) -> None:
    name = f"gradients_{ranks}_{stage}"
    assert printed[name].endswith("exit status 0\n"), printed[name]
    found = are_gradients_of(plain, folder / name)
    n_targets = len(step_targets(table.users, schedule(1), epoch=0)[0])
    for prefix_sharing in (True, False):
        micro_steps = [found[prefix_sharing, length]["micro_steps"] for length in (ROW_LENGTHS[0], ROW_LENGTHS[-1])]
        assert micro_steps == [math.ceil(n_targets / ranks), 1]
    assert found[True, 4000]["computed_tokens"] < 0.8 * found[False, 4000]["computed_tokens"]


def are_gradients_of(plain: Plain, file: Path) -> dict[tuple[bool, int], dict[str, Any]]:
    """Compare losses and gradients that `gradients.py` wrote with those of plain torch; what it wrote."""
    found: dict[tuple[bool, int], dict[str, Any]] = torch.load(file)
    for at_length in found.values():
        assert at_length["loss"] == pytest.approx(plain.losses[0], rel=1e-5)
        assert at_length["gradients"].keys() == plain.first_gradients.keys()
        for name, expected in plain.first_gradients.items():
            error = torch.linalg.vector_norm(at_length["gradients"][name] - expected)
            assert error <= 1e-5 * torch.linalg.vector_norm(expected) + 1e-9, name
    return found


@pytest.mark.parametrize("ranks", [1, 2], ids=["one_rank_packed", "two_ranks_long_rows_recomputed_shared"])
def test_training_does_what_plain_torch_does(folder: Path, plain: Plain, printed: dict[str, str], ranks: int) -> None:
    name = f"parity_{ranks}"
    records = records_of(folder, name, printed)
    np.testing.assert_allclose(steps(records, "loss"), plain.losses, rtol=2e-5)
    np.testing.assert_allclose(steps(records, "grad_norm"), plain.norms, rtol=1e-4)
    trained = AutoModelForCausalLM.from_pretrained(folder / name / "model", dtype=torch.float32).state_dict()
    assert trained.keys() == plain.weights.keys()
    for name, weight in trained.items():
        # Adam's first steps divide a gradient by its own size, so a tiny one may move by a step either way.
        close = torch.isclose(weight, plain.weights[name], rtol=1e-4, atol=1e-5).double().mean()
        assert close > 0.999, f"{name}: {close:.4f} of the weights agree"


def test_losses_are_those_of_an_earlier_version(folder: Path, two_ranks: dict[str, str], renew_golden: bool) -> None:
    """A change of these is a change of what is trained: renew them with `pytest --renew-golden` and say why."""
    records = records_of(folder, "golden", two_ranks)
    losses = [record["loss" if record["type"] == "step" else "val_loss"] for record in records]
    if renew_golden:
        GOLDEN.write_text(json.dumps(losses, indent=2) + "\n")
    np.testing.assert_allclose(losses, json.loads(GOLDEN.read_text()), rtol=1e-4)


def test_a_launch_of_several_trainings_does_what_one_of_its_own_does(folder: Path, two_ranks: dict[str, str]) -> None:
    """So these tests say something about a training as it is started."""
    alone = train(command(folder, "alone", 2, schedule(800, max_epochs=2), deepspeed_file(folder, 3)))
    fifth = records_of(folder, "golden", two_ranks)
    assert [{**record, "seconds": 0} for record in fifth] == [{**record, "seconds": 0} for record in alone]
    weights = [folder / name / "model" / "model.safetensors" for name in ("golden", "alone")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_shipped_deepspeed_files_train(folder: Path, two_ranks: dict[str, str]) -> None:
    """All but the buckets is the same on a CPU: offloaded or not, ZeRO-2 or 3, the losses agree."""
    losses = {name: steps(records_of(folder, f"shipped_{name}", two_ranks), "loss") for name in SHIPPED}
    np.testing.assert_allclose(losses["zero3_offload"], losses["zero3"], rtol=2e-5)
    np.testing.assert_allclose(losses["zero2"], losses["zero3"], rtol=2e-5)


def test_training_stops_when_validation_is_no_longer_better_by_the_threshold(
    folder: Path, one_rank: dict[str, str]
) -> None:
    records = records_of(folder, "early_stopping", one_rank)
    validations = [record for record in records if record["type"] == "val"]
    # The first is better than nothing, the next two are better than it, but not by the threshold.
    assert [v["is_best"] for v in validations] == [True, False, False]
    assert validations[2]["val_loss"] < validations[0]["val_loss"]
    counts = json.loads((folder / "early_stopping" / "manifest.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["best_epoch"], counts["epoch"]) == (1, 3)


@pytest.mark.parametrize("stage", [2, 3], ids=["2-0.1", "3-0.0"])
def test_adapters_are_trained_alone_and_merged_when_asked(
    folder: Path, table: TokenTable, two_ranks: dict[str, str], stage: int
) -> None:
    name = f"lora_{stage}"
    records = records_of(folder, name, two_ranks)
    losses = [record["val_loss"] for record in records if record["type"] == "val"]
    assert losses[-1] < losses[0] - 0.02
    assert (folder / name / "model" / "adapter_model.safetensors").exists()
    states = list((folder / name / "run" / "checkpoints").rglob("*.pt"))
    full = (folder / "base" / "model.safetensors").stat().st_size
    assert states and sum(file.stat().st_size for file in states) < full / 2

    assert two_ranks[f"{name}_merged"].endswith("exit status 0\n"), two_ranks[f"{name}_merged"]
    assert not (folder / name / "merged" / "adapter_config.json").exists()
    best = folder / name / "run" / f"best_epoch_{int(np.argmin(losses)) + 1}"
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (best, best.parents[1] / "merged")
    ]
    with torch.no_grad():
        scores = [float(sum(nll(model.eval(), table, i) for i in range(len(table)))) for model in models]
    n_tokens = table.completion_lengths.sum()
    np.testing.assert_allclose(scores / n_tokens, min(losses), rtol=1e-4)


def test_a_model_with_a_missing_or_unknown_weight_is_refused(one_rank: dict[str, str]) -> None:
    assert "1 weights are missing, the first is model.norm.weight" in one_rank["missing"]
    assert "1 weights are unexpected, the first is model.extra.weight" in one_rank["unexpected"]
    for name in ("missing", "unexpected"):
        assert one_rank[name].endswith("exit status 1\n")


def test_shared_prefixes_are_refused_where_dropout_would_be_shared(one_rank: dict[str, str]) -> None:
    assert one_rank["dropout"].endswith("exit status 1\n")
    assert (
        "has dropout 0.1: samples that share tokens would share what is dropped; set prefix_sharing: false"
        in (one_rank["dropout"])
    )


def test_a_loss_that_is_not_finite_stops_before_a_save(folder: Path, one_rank: dict[str, str]) -> None:
    assert one_rank["nan"].endswith("exit status 1\n")
    message = r"error: step 2: the (loss|gradient norm) is (nan|inf); stopped before a save: lower the learning_rate"
    assert re.search(message, one_rank["nan"])
    assert not list((folder / "nan" / "run").glob("best_epoch_*"))
    assert not (folder / "nan" / "run" / "latest.json").exists()


def test_gpus_that_are_not_there_are_named(folder: Path, tmp_path: Path) -> None:
    there = torch.cuda.device_count()
    finished = run(command(folder, "gpus", 1, schedule(800), deepspeed_file(tmp_path, 3), gpus=there + 1))
    assert f"error: the recipe asks for gpus: {there + 1} and torch finds {there} here" in finished.stderr
