"""Started by torchrun: the memory that loading a partitioned model takes in each process.

    python -m torch.distributed.run ... -m tests.workflow.loading_memory SMALL_MODEL MODEL SPREAD OUT

loads as for ZeRO-3, or with SPREAD 1 with the experts spread over all processes, and
writes to OUT a JSON list with the bytes of each rank: those that were resident at most, and those that still are, above
what was after the small model was loaded. Pages of files that are mapped are counted as long as they are mapped.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers.integrations import HfDeepSpeedConfig

from persona.modeling.attention import BY_PREFIX
from persona.modeling.expert_parallel import load_with_spread_experts
from persona.modeling.loading import check_weights, load_partitioned_model
from persona.modeling.processes import distributed_processes
from persona.training.engine import deepspeed_config
from persona.training.settings import Optimization

DEEPSPEED = Path(__file__).parents[2] / "config" / "deepspeed" / "zero3_cpu.json"


def status(key: str) -> int:
    """Bytes in a line of this process's status: `VmRSS` is resident, `VmHWM` was at most."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def load(model: str, spread: bool) -> Any:
    """Load a model as `build_engine` does."""
    check_weights(model)
    if spread:
        return load_with_spread_experts(model, torch.float32, BY_PREFIX, dist.get_world_size())
    partitioning = HfDeepSpeedConfig(deepspeed_config(DEEPSPEED, Optimization(), torch.float32))
    loaded = load_partitioned_model(model, torch.float32, BY_PREFIX)
    del partitioning
    return loaded


def main(small_model: str, model: str, spread: bool, out: Path) -> None:
    small = load(small_model, spread)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # `VmHWM` starts again
    before = status("VmRSS")
    loaded = load(model, spread)
    gc.collect()
    figures: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(figures, {"peak": status("VmHWM") - before, "held": status("VmRSS") - before})
    if dist.get_rank() == 0:
        out.write_text(json.dumps(figures))
    dist.barrier()
    del small, loaded


if __name__ == "__main__":
    with distributed_processes():
        main(sys.argv[1], sys.argv[2], sys.argv[3] == "1", Path(sys.argv[4]))
