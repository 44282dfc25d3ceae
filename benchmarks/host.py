"""Seconds of the host for a micro-step of 48 layers: bare, and under ZeRO-3 with modules or layers gathered one by one.

    OMP_NUM_THREADS=1 python -m benchmarks.host

The layers are so narrow that computing takes no time, so what is left is Python's work. The variants take turns in one
process; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.corpus import ROOT
from persona.modeling.loading import default_device, dtype_on, load_model
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import RowPlan, TokenTable, pack_row
from persona.modeling.processes import process_group
from persona.training.engine import build_engine
from persona.training.loop import accumulate
from persona.training.settings import Optimization

SETTINGS = Optimization(gradient_checkpointing=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, process_group():
        write_model(Path(folder), args.layers)
        figures = compare(folder, args.rounds)
    print(json.dumps({"device": str(default_device()), "layers": args.layers, **figures}))


def write_model(folder: Path, n_layers: int) -> None:
    """A random Qwen3-MoE with narrow layers."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=32,
        moe_intermediate_size=16,
        num_experts=8,
        num_experts_per_tok=2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)


def compare(folder: str, rounds: int) -> dict[str, Any]:
    """Median seconds of forward and backward of eight samples, the variants turn by turn."""
    n, length = 8, 20
    table = TokenTable(
        ids=np.random.default_rng(0).integers(0, 64, n * length).astype(np.int32),
        starts=np.arange(n + 1, dtype=np.int64) * length,
        prompt_lengths=np.full(n, 10, dtype=np.int32),
        users=np.arange(n),
    )
    targets, row = np.arange(n), RowPlan(list(range(n)), [0] * n)
    model = load_model(folder, dtype_on(default_device()), default_device()).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    bare = CompletionLoss(model)

    with patch("deepspeed.utils.set_z3_leaf_modules"):
        by_module = zero3_engine(folder)
    engines = {"zero3_by_module": by_module, "zero3_by_layer": zero3_engine(folder)}
    seconds: dict[str, list[float]] = {name: [] for name in ("bare", *engines)}
    for _ in range(rounds + 1):
        seconds["bare"].append(
            timed(lambda: bare(pack_row(table, row.members, row.shared).to(default_device())).sum().backward())
        )
        for name, engine in engines.items():
            seconds[name].append(timed(partial(accumulate, engine, table, targets, [[row]])))
            engine.step()  # not timed; gradients begin anew
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        **{f"{name}_s": value for name, value in medians.items()},
        "by_module_over_by_layer": medians["zero3_by_module"] / medians["zero3_by_layer"],
        "by_layer_over_bare": medians["zero3_by_layer"] / medians["bare"],
    }


def timed(work: Callable[[], Any]) -> float:
    """Seconds of some work."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def zero3_engine(folder: str) -> Any:
    """An engine under ZeRO-3 that partitions even narrow layers."""
    file = ROOT / "config" / "deepspeed" / "zero3_cpu.json"
    return build_engine(folder, file, SETTINGS, 100, 1, prefix_sharing=True)


if __name__ == "__main__":
    main()
