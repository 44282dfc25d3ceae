"""Experts spread over processes: what is computed, saved and exported is what it is without.

All commands on two processes run in one launch, and so do all on four; `two_ranks` is what they printed.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config

from persona.errors import PersonaError
from persona.modeling.packing import TokenTable
from persona.modeling.tiny import moe_config
from persona.tokenization.chat import load_tokenizer
from persona.training.checkpoints import RunFolder
from persona.training.logs import JSON_LOG, read_log
from persona.training.settings import Optimization
from tests.workflow.test_parity import GOLDEN, Plain, are_gradients_of, nll
from tests.workflow.test_resume import after_an_unsaved_validation, inside_a_save, inside_an_export, kill_at, timeless
from tests.workflow.training import (
    OPTIMIZATION,
    ROOT,
    arguments,
    command,
    deepspeed_file,
    gradients,
    run_several,
    schedule,
    steps,
    train,
)

EVALUATION = Path(__file__).with_name("spread_evaluation.py")
ZERO1 = ROOT / "config" / "deepspeed" / "zero1.json"
SPREAD = OPTIMIZATION.model_copy(update={"expert_parallel": 2})
STILL = {"learning_rate": 1e-30}  # the weights do not change
TWO_EPOCHS = schedule(800, max_epochs=2)  # those of the golden losses, which are ZeRO-3's
STOPPED_AFTER = 4


@pytest.fixture(scope="module")
def lopsided(folder: Path) -> str:
    """A model whose tokens each choose one of the first two of four experts, so that the second process gets none."""
    name = "lopsided"
    shutil.copytree(folder / "base", folder / name)
    config = json.loads((folder / name / "config.json").read_text())
    config |= {"num_experts_per_tok": 1, "norm_topk_prob": False}
    (folder / name / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "base" / "model.safetensors")
    for key, weight in weights.items():
        if key.endswith("mlp.gate.weight"):
            weights[key] = torch.stack([weight[0], -weight[0], 0 * weight[0], 0 * weight[0]])
    save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})
    return name


def without_experts(folder: Path) -> str:
    return random_model(folder, "dense", Qwen3Config(vocab_size=500, hidden_size=64, num_hidden_layers=1, head_dim=16))


def three_experts(folder: Path) -> str:
    return random_model(folder, "three", moe_config(load_tokenizer(str(folder / "base")), 64, 1, 3))


@pytest.fixture(scope="module")
def tied(folder: Path) -> str:
    """A model whose head is its embedding."""
    config = moe_config(load_tokenizer(str(folder / "base")), 64, 1, 4)
    config.tie_word_embeddings = True
    return random_model(folder, "tied", config)


def random_model(folder: Path, name: str, config: object) -> str:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
    load_tokenizer(str(folder / "base")).save_pretrained(folder / name)
    return name


def gradients_of(
    folder: Path, name: str, stage: int, degree: int, base: str = "base", recompute: bool = True
) -> list[str]:
    """One sample a row and so accumulated, and all in one row; with and without shared prefixes."""
    changes = {"gradient_checkpointing": recompute, "expert_parallel": degree}
    return gradients(folder, name, stage, [1, 4000], OPTIMIZATION.model_copy(update=changes), base)


def training(
    folder: Path, name: str, optimization: Optimization = SPREAD, file: Path = ZERO1, base: str = "base"
) -> list[str]:
    return arguments(folder, name, TWO_EPOCHS, file, optimization=optimization, base=base)


@pytest.fixture(scope="module")
def two_ranks(folder: Path, lopsided: str, tied: str) -> dict[str, str]:
    script, *others = training(folder, "ep_stopped")
    zero3 = deepspeed_file(folder, 3)
    four = SPREAD.model_copy(update={"expert_parallel": 4})
    commands = {
        "ep_recomputed": gradients_of(folder, "ep_recomputed", 1, 2),
        "ep_zero2": gradients_of(folder, "ep_zero2", 2, 2, recompute=False),
        "ep_lopsided": gradients_of(folder, "ep_lopsided", 1, 2, base=lopsided),
        "ep_tied": gradients_of(folder, "ep_tied", 1, 2, base=tied),
        "ep_bfloat16": arguments(
            folder,
            "ep_bfloat16",
            TWO_EPOCHS,
            ZERO1,
            SPREAD.model_copy(update={"cpu_dtype": "bfloat16"}),
            export={"keep_training_state": True},
        ),
        "ep_worse": arguments(
            folder,
            "ep_worse",
            schedule(800, max_epochs=3, early_stopping_threshold=1e6, early_stopping_patience=3),
            ZERO1,
            SPREAD.model_copy(update={"learning_rate": 3e-2}),
        ),
        "ep_nan": training(folder, "ep_nan", SPREAD.model_copy(update={"learning_rate": 1e30})),
        "ep_whole": training(folder, "ep_whole"),
        "ep_still": training(folder, "ep_still", SPREAD.model_copy(update=STILL), ZERO1.with_name("zero1_cpu.json")),
        "zero3_still": training(folder, "zero3_still", OPTIMIZATION.model_copy(update=STILL), zero3),
        "ep_stopped": [str(Path(__file__).with_name("train_and_stop.py")), str(STOPPED_AFTER), *others],
        "ep_resumed": [script, *others],
        "ep_dense": training(folder, "ep_dense", base=without_experts(folder)),
        "ep_three": training(folder, "ep_three", base=three_experts(folder)),
        "ep_four": training(folder, "ep_four", four),
        "evaluation": [str(EVALUATION), str(folder), "2"],
    }
    return run_several(2, commands, folder / "expert_parallel.json")


def succeeded(printed: dict[str, str], name: str) -> None:
    assert printed[name].endswith("exit status 0\n"), printed[name]


def test_gradients_are_those_of_plain_torch(folder: Path, lopsided: str, tied: str, two_ranks: dict[str, str]) -> None:
    table = TokenTable.read(folder / "tokens.parquet")
    plain, of_lopsided, of_tied = (Plain(folder, table, base) for base in ("base", lopsided, tied))
    for name, expected in (
        ("ep_recomputed", plain), ("ep_zero2", plain), ("ep_lopsided", of_lopsided), ("ep_tied", of_tied)
    ):  # fmt: skip
        succeeded(two_ranks, name)
        found = are_gradients_of(expected, folder / name)
        assert found[True, 4000]["computed_tokens"] < 0.8 * found[False, 4000]["computed_tokens"]
    unused = [g[2:] for name, g in of_lopsided.first_gradients.items() if ".experts." in name]
    assert unused and not any(gradient.any() for gradient in unused)


@pytest.mark.long
def test_gradients_are_those_of_plain_torch_on_four_processes(folder: Path, lopsided: str) -> None:
    """With every process a part of the experts, and with two groups of processes that hold the same ones."""
    commands = {
        "ep_4_4": gradients_of(folder, "ep_4_4", 1, 4),
        "ep_4_2": gradients_of(folder, "ep_4_2", 2, 2),
        "ep_4_2_lopsided": gradients_of(folder, "ep_4_2_lopsided", 1, 2, base=lopsided),
        "ep_4_2_trained": arguments(
            folder, "ep_4_2_trained", TWO_EPOCHS, ZERO1, SPREAD, export={"keep_training_state": True}
        ),
        "evaluation": [str(EVALUATION), str(folder), "2"],
        "zero3_4_trained": training(folder, "zero3_4_trained", OPTIMIZATION, deepspeed_file(folder, 3)),
    }
    printed = run_several(4, commands, folder / "four_ranks.json")
    table = TokenTable.read(folder / "tokens.parquet")
    plain, of_lopsided = Plain(folder, table), Plain(folder, table, lopsided)
    for name, expected in (("ep_4_4", plain), ("ep_4_2", plain), ("ep_4_2_lopsided", of_lopsided)):
        succeeded(printed, name)
        are_gradients_of(expected, folder / name)
    losses, norms = (
        [steps(read_log(folder / name / "log.jsonl"), key) for name in ("ep_4_2_trained", "zero3_4_trained")]
        for key in ("loss", "grad_norm")
    )
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)
    [checkpoint] = (folder / "ep_4_2_trained" / "run" / "checkpoints").glob("step_*")
    for one, other in ((0, 2), (1, 3)):
        experts = [torch.load(checkpoint / f"experts_rank_{rank}.pt") for rank in (one, other)]
        for name, state in experts[0].items():
            assert all(torch.equal(value, experts[1][name][key]) for key, value in state.items())
    succeeded(printed, "evaluation")
    same_results(folder / "spread_evaluation_4")


def test_a_training_sees_the_samples_and_has_the_curve_of_zero3(folder: Path, two_ranks: dict[str, str]) -> None:
    succeeded(two_ranks, "ep_whole")
    records = read_log(folder / "ep_whole" / "log.jsonl")
    losses = [record["loss" if record["type"] == "step" else "val_loss"] for record in records]
    np.testing.assert_allclose(losses, json.loads(GOLDEN.read_text()), rtol=1e-4)


def test_in_bfloat16_the_curve_is_that_of_float32_within_five_percent(folder: Path, two_ranks: dict[str, str]) -> None:
    """As on GPUs: the optimizer's state of experts is in float32, and so is the copy of the weights that it changes."""
    succeeded(two_ranks, "ep_bfloat16")
    losses = [steps(read_log(folder / name / "log.jsonl"), "loss") for name in ("ep_bfloat16", "ep_whole")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.05)
    [checkpoint] = (folder / "ep_bfloat16" / "run" / "checkpoints").glob("step_*")
    for rank in range(2):
        experts = torch.load(checkpoint / f"experts_rank_{rank}.pt")
        assert len(experts) == 2 * 2  # layers, and weights of each
        for state in experts.values():
            assert {name: value.dtype for name, value in state.items()} == dict.fromkeys(
                ("weight", "step", "exp_avg", "exp_avg_sq"), torch.float32
            )
            assert (state["weight"] != state["weight"].bfloat16()).any()


def test_the_best_weights_are_exported_and_not_the_last(folder: Path, two_ranks: dict[str, str]) -> None:
    succeeded(two_ranks, "ep_worse")
    validations = [r for r in read_log(folder / "ep_worse" / "log.jsonl") if r["type"] == "val"]
    losses = [record["val_loss"] for record in validations]
    # No later one is better than the first by the threshold.
    assert [record["is_best"] for record in validations] == [True, False, False] and losses[2] < losses[0] - 0.1
    table = TokenTable.read(folder / "tokens.parquet")
    model = AutoModelForCausalLM.from_pretrained(folder / "ep_worse" / "model", dtype=torch.float32).eval()
    with torch.no_grad():
        total = sum(float(nll(model, table, i)) for i in range(len(table)))
    assert total / table.completion_lengths.sum() == pytest.approx(losses[0], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_before_a_save(two_ranks: dict[str, str]) -> None:
    assert re.search(r"step 2: the (loss|gradient norm) is (nan|inf); stopped before a save", two_ranks["ep_nan"])


def test_the_exported_files_are_those_of_zero3(folder: Path, two_ranks: dict[str, str]) -> None:
    """Of the same weights, which a learning rate of nearly 0 leaves as they are in the base model."""
    for name in ("ep_still", "zero3_still"):
        succeeded(two_ranks, name)
    of_spread, of_zero3 = (sorted((folder / name / "model").iterdir()) for name in ("ep_still", "zero3_still"))
    assert [file.name for file in of_spread] == [file.name for file in of_zero3]
    for one, other in zip(of_spread, of_zero3, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_a_stopped_training_goes_on_to_the_same_bits(folder: Path, two_ranks: dict[str, str]) -> None:
    assert f"told to stop (SIGTERM): saved after step {STOPPED_AFTER}" in two_ranks["ep_stopped"]
    succeeded(two_ranks, "ep_resumed")
    whole, resumed = (read_log(folder / name / "log.jsonl") for name in ("ep_whole", "ep_stopped"))
    assert [timeless(record) for record in resumed] == [timeless(record) for record in whole]
    weights = [folder / name / "model" / "model.safetensors" for name in ("ep_whole", "ep_stopped")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_another_degree_is_refused(tmp_path: Path) -> None:
    for was, now in ((2, 4), (1, 2)):
        # Trainings of before this could be chosen did not write it down.
        before = {"seed": 1} | ({"expert_parallel": was} if was > 1 else {})
        with closing(RunFolder(tmp_path / str(was))) as folder:
            folder.claim(before)
            (folder.path / JSON_LOG).write_text("{}\n")  # a step
        message = rf"unfinished training of something else \(expert_parallel: was {was}, is {now}\). Undo the change"
        with closing(RunFolder(tmp_path / str(was))) as folder, pytest.raises(PersonaError, match=message):
            folder.claim({"seed": 1, "expert_parallel": now})


def test_models_that_cannot_be_spread_are_refused(two_ranks: dict[str, str]) -> None:
    assert "has no experts that could be spread over processes; leave out expert_parallel" in two_ranks["ep_dense"]
    message = "has 3 experts in a layer, which expert_parallel: 2 does not divide; choose a divisor"
    assert message in two_ranks["ep_three"]
    assert "expert_parallel: 4 does not divide the 2 processes" in two_ranks["ep_four"]


def test_a_model_is_scored_and_writes_with_spread_experts_as_when_it_is_whole(
    folder: Path, two_ranks: dict[str, str]
) -> None:
    succeeded(two_ranks, "evaluation")
    whole, spread = same_results(folder / "spread_evaluation_2")
    assert len(whole["texts"]) % 2 == 1 and {row[5] for row in whole["texts"]} == {"end", "length"}
    # Half of the experts are elsewhere: of four in each of two layers, of three matrices of 64 x 32.
    assert whole["parameters"] - spread["parameters"] == 2 * 2 * 3 * 64 * 32


def same_results(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `spread_evaluation.py` found of the whole model and of the spread one, which must be the same."""
    whole, spread = torch.load(file, weights_only=False).values()
    np.testing.assert_allclose(spread["nll"], whole["nll"], rtol=1e-5)
    assert spread["texts"] == whole["texts"]
    assert whole["left_in_memory"] == spread["left_in_memory"] == 0
    return whole, spread


@pytest.mark.long
def test_a_killed_training_goes_on_to_the_same_bits(folder: Path) -> None:
    plan = schedule(800, max_epochs=8, checkpoint_every_steps=1, validate_every_steps=2, early_stopping_patience=16)
    names = ("ep_not_killed", "ep_killed")
    whole, interrupted = (command(folder, name, 2, plan, ZERO1, optimization=SPREAD) for name in names)
    records = train(whole)
    for victim, moment in (
        ("rank 1", inside_a_save), ("torchrun", after_an_unsaved_validation), ("rank 0", inside_an_export)
    ):  # fmt: skip
        kill_at(interrupted, folder / "ep_killed" / "run", victim, moment)
    assert [timeless(record) for record in train(interrupted)] == [timeless(record) for record in records]
    weights = [folder / name / "model" / "model.safetensors" for name in names]
    assert weights[0].read_bytes() == weights[1].read_bytes()
