"""Bytes that one of eight processes gathers and reduces in an optimizer step, in the proportions of the 30B's weights.

    python -m tests.counted_traffic MICRO_STEPS...

prints a JSON list: for each number of micro-steps what was counted and what is planned. Tensors are real, in float32
and of tiny width. DeepSpeed's limits are as many times smaller as a layer is, so that they keep and gather ahead what
they do in the 30B. In a process of its own, because DeepSpeed remembers the group of processes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from transformers.integrations import HfDeepSpeedConfig

from persona.modeling.attention import BY_PREFIX
from persona.modeling.packing import RowPlan
from persona.planning.cost import Launch, model_size, step_traffic
from persona.training.engine import deepspeed_config, engine_around
from persona.training.loop import accumulate
from persona.training.settings import Optimization
from tests.gpu.real_model import random_samples
from tests.loopback import Counted, one_of

DEEPSPEED = Path(__file__).parents[1] / "config" / "deepspeed" / "zero3.json"
PROCESSES, VOCABULARY, LAYERS = 8, 2400, 48
SETTINGS = Optimization(gradient_checkpointing=True)
REAL_LAYER = 623_000_000  # parameters of a layer of the 30B


def tiny_config() -> Any:
    """48 layers and their experts, each of a sixty-fourth of the 30B's width or a little more."""
    return Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=16,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        tie_word_embeddings=False,
    )


def smaller_limits(file: Path, layer: int) -> None:
    """Write the DeepSpeed file with limits for a layer of so many parameters."""
    config = json.loads(DEEPSPEED.read_text())
    zero = config["zero_optimization"]
    for name, value in zero.items():
        if type(value) is int and name != "stage":
            zero[name] = value * layer // REAL_LAYER
    zero["stage3_param_persistence_threshold"] = 600  # norms and routers, as in the 30B
    file.write_text(json.dumps(config))


def count(engine: Any, micro_steps: int, collectives: Counted) -> dict[str, int]:
    """Bytes of one optimizer step."""
    table = random_samples(micro_steps, 24, 8, VOCABULARY)
    rows = [RowPlan([n], [0]) for n in range(micro_steps)]
    collectives.reset()
    accumulate(engine, table, np.arange(micro_steps), [rows] * PROCESSES)
    engine.step()
    return dict(collectives.bytes)


def main(numbers: list[int]) -> list[dict[str, float]]:
    """Counted and planned bytes, after a step in which DeepSpeed learns the order of the weights."""
    figures = []
    with one_of(PROCESSES) as collectives, tempfile.TemporaryDirectory() as folder:
        tiny_config().save_pretrained(folder)
        size = model_size(folder, None)
        file = Path(folder) / "zero3.json"
        smaller_limits(file, (size.parameters - 2 * size.head_parameters) // LAYERS)
        config = deepspeed_config(file, SETTINGS, torch.float32)
        partitioning = HfDeepSpeedConfig(config)
        model = AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.float32, attn_implementation=BY_PREFIX)
        del partitioning
        engine = engine_around(model, config, SETTINGS, epoch_steps=9, max_epochs=1)
        count(engine, 1, collectives)
        for micro_steps in numbers:
            counted = count(engine, micro_steps, collectives)
            planned = step_traffic(size, Launch.from_deepspeed(file, PROCESSES, 4), micro_steps)
            figures.append(
                {
                    "gathered": counted["gather"],
                    "reduced": counted["reduce"],
                    "planned_gathered": planned.gathered,
                    "planned_reduced": planned.reduced,
                }
            )
    return figures


if __name__ == "__main__":
    print(json.dumps(main([int(number) for number in sys.argv[1:]])))
