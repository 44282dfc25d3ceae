"""Bytes that one of eight processes sends in an optimizer step, in the proportions of the 30B's weights.

    python -m tests.counted_traffic MICRO_STEPS...

prints a JSON object: for ZeRO-3 and for spread experts a list with, for each number of micro-steps, what was counted
and what is planned of what is gathered, reduced and exchanged with experts. Tensors are real, in float32
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
from persona.modeling.expert_parallel import expert_mesh
from persona.modeling.packing import RowPlan
from persona.planning.cost import Launch, ModelSize, model_size, step_traffic
from persona.training.engine import deepspeed_config, engine_around, optimizer_step
from persona.training.loop import accumulate
from persona.training.settings import Optimization
from tests.gpu.real_model import random_samples, spread_engine
from tests.loopback import Counted, one_of

DEEPSPEED = Path(__file__).parents[1] / "config" / "deepspeed" / "zero3.json"
PROCESSES, VOCABULARY, LAYERS = 8, 2400, 48
SAMPLE = (24, 8)  # tokens of prompt and completion
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
    table = random_samples(micro_steps, *SAMPLE, VOCABULARY)
    rows = [RowPlan([n], [0]) for n in range(micro_steps)]
    collectives.reset()
    accumulate(engine, table, np.arange(micro_steps), [rows] * PROCESSES)
    optimizer_step(engine)
    return dict(collectives.bytes)


def compare(
    engine: Any, size: ModelSize, launch: Launch, numbers: list[int], collectives: Counted
) -> list[dict[str, float]]:
    """Counted and planned bytes, after a step in which DeepSpeed learns the order of the weights."""
    count(engine, 1, collectives)
    figures = []
    for micro_steps in numbers:
        counted = count(engine, micro_steps, collectives)
        tokens = micro_steps * int(random_samples(1, *SAMPLE).computed_lengths[0])
        planned = step_traffic(size, launch, micro_steps, tokens, SETTINGS.gradient_checkpointing)
        figures.append(
            {
                "gathered": counted["gather"],
                "reduced": counted["reduce"],
                "exchanged": counted.get("exchange", 0),
                **{f"planned_{kind}": value for kind, value in vars(planned).items()},
            }
        )
    return figures


def engines(folder: Path) -> tuple[ModelSize, dict[str, tuple[Any, Launch]]]:
    """The size of the tiny model, and its engines by ZeRO-3 and with spread experts. Call within `one_of`."""
    tiny_config().save_pretrained(folder)
    size = model_size(str(folder), None)
    file = folder / "zero3.json"
    smaller_limits(file, (size.parameters - 2 * size.head_parameters) // LAYERS)
    config = deepspeed_config(file, SETTINGS, torch.float32)
    partitioning = HfDeepSpeedConfig(config)
    model = AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.float32, attn_implementation=BY_PREFIX)
    del partitioning
    zero3 = engine_around(model, config, SETTINGS, epoch_steps=9, max_epochs=1)
    zero1 = DEEPSPEED.with_name("zero1.json")
    spread = spread_engine(tiny_config(), SETTINGS, zero1, expert_mesh(PROCESSES), torch.float32)
    return size, {
        "zero3": (zero3, Launch.from_deepspeed(file, PROCESSES, 4)),
        "spread": (spread, Launch.from_deepspeed(zero1, PROCESSES, 4, PROCESSES)),
    }


def main(numbers: list[int]) -> dict[str, list[dict[str, float]]]:
    """The figures of both layouts."""
    with one_of(PROCESSES) as collectives, tempfile.TemporaryDirectory() as folder:
        size, of_both = engines(Path(folder))
        return {name: compare(engine, size, launch, numbers, collectives) for name, (engine, launch) in of_both.items()}


if __name__ == "__main__":
    print(json.dumps(main([int(number) for number in sys.argv[1:]])))
