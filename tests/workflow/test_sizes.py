"""What a training writes, in bytes, against what is checked before it is written and what is planned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from persona.ingestion.ingest import Ingested
from persona.modeling.tiny import write_tiny_model
from persona.planning.cost import Launch, model_size
from persona.planning.phases import disk_gb
from persona.training.adapters import add_adapters
from persona.training.checkpoints import checkpoint_bytes
from persona.training.export import export_bytes
from persona.training.settings import Lora
from tests.workflow.training import OPTIMIZATION, arguments, deepspeed_file, run_several, schedule

RANKS, FLOAT32 = 2, 4
OVERHEAD = 0.03  # names and shapes, of a model that is tiny
LORA = Lora(r=64, alpha=64, dropout=0.0, target_modules=["q_proj", "v_proj", "o_proj"])
TRAININGS = {"zero3": (3, None), "zero2": (2, None), "zero2_lora": (2, LORA), "zero3_lora": (3, LORA)}
SPREAD = "spread"  # experts over both processes, with ZeRO-1
PLAN = schedule(4000, checkpoint_every_steps=1)
pytestmark = pytest.mark.long  # it changes with DeepSpeed and with the checkpoint's code alone


@pytest.fixture(scope="module")
def trained(folder: Path, tables: Ingested) -> Path:
    """A folder with the run folder of each training; the last checkpoint of each is kept."""
    write_tiny_model(
        tables.interactions["text"].to_list(),
        folder / "wide",
        500,
        hidden_size=192,
        num_hidden_layers=2,
        num_experts=8,
        seed=0,
    )
    commands = {
        name: arguments(
            folder, f"sizes_{name}", PLAN, deepspeed_file(folder, stage), base="wide",
            optimization=OPTIMIZATION.model_copy(update={"lora": lora}), export={"keep_training_state": True},
        )
        for name, (stage, lora) in TRAININGS.items()
    }  # fmt: skip
    commands[SPREAD] = arguments(
        folder, f"sizes_{SPREAD}", PLAN, deepspeed_file(folder, 1), base="wide",
        optimization=OPTIMIZATION.model_copy(update={"expert_parallel": RANKS}), export={"keep_training_state": True},
    )  # fmt: skip
    for name, printed in run_several(RANKS, commands, folder / "sizes.json").items():
        assert printed.endswith("exit status 0\n"), name + printed
    return folder


def n_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_checkpoint_takes_as_much_as_is_planned_and_as_there_must_be_room_for(trained: Path, name: str) -> None:
    """Per trained weight 12 bytes of the optimizer's state and the best weight; below ZeRO-3 the present weight too."""
    stage, lora = TRAININGS[name]
    [checkpoint] = (trained / f"sizes_{name}" / "run" / "checkpoints").glob("step_*")
    model = SimpleNamespace(parameters=lambda: [p for _, p in named_parameters(trained, lora, stage == 3)])
    of_best = n_bytes(checkpoint.glob("best_rank_*.pt"))
    of_deepspeed = n_bytes(checkpoint.iterdir()) - of_best
    size = model_size(str(trained / "wide"), lora)
    assert of_best == pytest.approx(FLOAT32 * size.trained_parameters, rel=OVERHEAD)
    assert of_deepspeed == pytest.approx(checkpoint_bytes(cast(nn.Module, model)), rel=OVERHEAD)
    launch = Launch.from_deepspeed(deepspeed_file(trained, stage), RANKS, FLOAT32)
    planned = disk_gb(size, launch, PLAN, seconds=0)["checkpoints"] * 1e9
    assert 2 * n_bytes(checkpoint.iterdir()) == pytest.approx(planned, rel=OVERHEAD)


def test_with_spread_experts_a_checkpoint_takes_as_much_as_is_planned(trained: Path) -> None:
    [checkpoint] = (trained / f"sizes_{SPREAD}" / "run" / "checkpoints").glob("step_*")
    size = model_size(str(trained / "wide"), None)
    own = [n_bytes([checkpoint / f"experts_rank_{rank}.pt"]) for rank in range(RANKS)]
    assert own == pytest.approx([12 * size.expert_parameters / RANKS] * RANKS, rel=OVERHEAD)
    launch = Launch.from_deepspeed(deepspeed_file(trained, 1), RANKS, FLOAT32, expert_parallel=RANKS)
    planned = disk_gb(size, launch, PLAN, seconds=0)["checkpoints"] * 1e9
    assert 2 * n_bytes(checkpoint.iterdir()) == pytest.approx(planned, rel=OVERHEAD)


@pytest.mark.parametrize("name", TRAININGS)
def test_an_export_takes_as_much_as_is_planned_and_as_there_must_be_room_for(trained: Path, name: str) -> None:
    stage, lora = TRAININGS[name]
    model = SimpleNamespace(named_parameters=lambda: named_parameters(trained, lora, stage == 3))
    found = n_bytes((trained / f"sizes_{name}" / "run").glob("best_epoch_*/*.safetensors"))
    assert found == pytest.approx(export_bytes(model), rel=OVERHEAD)
    launch = Launch.from_deepspeed(deepspeed_file(trained, stage), RANKS, FLOAT32)
    planned = disk_gb(model_size(str(trained / "wide"), lora), launch, PLAN, seconds=0)["model"] * 1e9
    assert found == pytest.approx(planned, rel=OVERHEAD)


def named_parameters(folder: Path, lora: Lora | None, partitioned: bool) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters with their names, as an engine holds them."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "wide", dtype=torch.float32)
    if lora is not None:
        add_adapters(model, lora, seed=0)
    for name, parameter in model.named_parameters():
        if partitioned:
            parameter.ds_numel = parameter.numel()
        yield name, parameter
