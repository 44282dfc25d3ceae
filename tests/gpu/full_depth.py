"""One of eight processes of the 30B's training, at full depth on one GPU: memory and seconds without the traffic.

    python -m tests.gpu.full_depth ROW_TOKENS SPREAD [LAYERS]

prints one JSON object. SPREAD is 1 for experts that are spread over the processes, and 0 for ZeRO-3. In a process of
its own, because the memory of other checks would be counted.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from persona.modeling.expert_parallel import expert_mesh
from persona.modeling.packing import RowPlan
from persona.planning.cost import Launch, Work, flops, memory, model_size
from persona.training.engine import optimizer_step
from persona.training.loop import accumulate
from persona.training.settings import Optimization
from tests.gpu.real_model import partitioned_engine, random_samples, real_config, spread_engine
from tests.loopback import one_of

ROOT = Path(__file__).parents[2]
DEEPSPEED = ROOT / "config" / "deepspeed"
PROCESSES = 8
GIB = 2**30


def main(row_tokens: int, spread: bool, n_layers: int) -> dict[str, Any]:
    """Four optimizer steps of one row each."""
    settings = Optimization(gradient_checkpointing=True)
    figures: dict[str, Any] = {"row_tokens": row_tokens, "spread": spread, "layers": n_layers}
    with one_of(PROCESSES) as collectives, tempfile.TemporaryDirectory() as folder:
        real_config(n_layers).save_pretrained(folder)
        started = time.perf_counter()
        if spread:
            file = DEEPSPEED / "zero1.json"
            engine = spread_engine(real_config(n_layers), settings, file, expert_mesh(PROCESSES), torch.bfloat16)
        else:
            file = DEEPSPEED / "zero3.json"
            engine = partitioned_engine(n_layers, settings, file)
        torch.cuda.synchronize()
        figures["build_s"] = round(time.perf_counter() - started, 1)
        table = random_samples(row_tokens // 256, 192, 64)
        targets = np.arange(len(table))
        row = RowPlan(targets.tolist(), [0] * len(table))
        seconds: list[float] = []
        for _ in range(4):
            collectives.reset()
            started = time.perf_counter()
            loss = accumulate(engine, table, targets, [[row]] * PROCESSES)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            optimizer_step(engine)
            torch.cuda.synchronize()
            figures["optimizer_s"] = round(time.perf_counter() - started, 3)
        # The first optimizer step makes Adam's moments.
        figures["static_gib"] = round(torch.cuda.memory_allocated() / GIB, 1)
        size = model_size(folder, None)
        launch = Launch.from_deepspeed(file, PROCESSES, 2, PROCESSES if spread else 1)
        planned = memory(size, launch, row_tokens, recompute=True)
        work = Work(table.computed_lengths, np.zeros(len(table), dtype=np.int64), int(table.completion_lengths.sum()))
        tflops = flops(size, work, True) / 1e12
        figures |= {
            "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 1),
            "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 1),
            "planned_gib": round(planned.total, 1),
            # Below ZeRO-3 gradients and buckets are let go of after each step.
            "planned_static_gib": round(planned.weights + planned.optimizer if spread else planned.static, 1),
            "micro_step_s": [round(s, 3) for s in seconds],
            "tflop_per_micro_step": round(tflops, 1),
            "tflops_reached": round(tflops / min(seconds), 1),
            "gathers": collectives.calls.get("gather", 0),
            "gathered_gb": round(collectives.bytes.get("gather", 0) / 1e9, 1),
            "reduced_gb": round(collectives.bytes.get("reduce", 0) / 1e9, 1),
            "exchanged_gb": round(collectives.bytes.get("exchange", 0) / 1e9, 1),
            "loss": loss,
        }
    return figures


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    row_tokens, spread, *layers = map(int, sys.argv[1:])
    print(json.dumps(main(row_tokens, bool(spread), *(layers or [48]))))
