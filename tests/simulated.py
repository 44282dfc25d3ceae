"""One of eight processes of the 30B's training without a GPU and without values: tensors have shapes alone.

    python -m tests.simulated LAYERS ROW_TOKENS RECOMPUTE [LAYERS ROW_TOKENS RECOMPUTE]...

prints a JSON list: for each case the GiB that two optimizer steps hold, counted on the storages of torch's fake tensors
and planned, and the bytes that the second step and a validation gather and reduce. The tensors are in bfloat16 and the
optimizer is fused, as on a GPU. In a process of its own, because some functions of DeepSpeed are replaced.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from persona.modeling.packing import RowPlan
from persona.planning.cost import GIB, Launch, memory, model_size, step_traffic, validation_traffic
from persona.training.loop import accumulate, mean_nll
from persona.training.settings import Optimization
from tests.gpu.real_model import partitioned_engine, random_samples, real_config
from tests.loopback import Counted, one_of

DEEPSPEED = Path(__file__).parents[1] / "config" / "deepspeed" / "zero3.json"
PROCESSES = 8


class Storages(TorchDispatchMode):
    """Counts the bytes of all storages that exist. Tensors have no values; where one is asked for it is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0 if args[0].is_floating_point() else 0
        output = func(*args, **(kwargs or {}))
        for each in tree_leaves(output):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _forget(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage)


def simulate(n_layers: int, row_tokens: int, recompute: bool, collectives: Counted) -> dict[str, float]:
    """Figures of two optimizer steps of one row each, and as planned. Call within `one_of`."""
    settings = Optimization(gradient_checkpointing=recompute)
    table = random_samples(row_tokens // 256, 192, 64)
    targets = np.arange(len(table))
    row = RowPlan(targets.tolist(), [0] * len(table))
    with FakeTensorMode(allow_non_fake_inputs=True), Storages() as storages:
        engine = partitioned_engine(n_layers, settings, DEEPSPEED)
        for group in engine.optimizer.optimizer.param_groups:
            group["fused"] = True
        storages.peak = 0
        for _ in range(2):
            collectives.reset()
            accumulate(engine, table, targets, [[row]] * PROCESSES)
            engine.step()
        peak, static, of_step = storages.peak / GIB, storages.now / GIB, dict(collectives.bytes)
        collectives.reset()
        mean_nll(engine, table, [[row]] * PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        real_config(n_layers).save_pretrained(folder)
        size = model_size(folder, None)
    launch = Launch.from_deepspeed(DEEPSPEED, PROCESSES, 2)
    planned, traffic = memory(size, launch, row_tokens, recompute), step_traffic(size, launch, micro_steps=1)
    return {
        "peak": peak,
        "static": static,
        "planned_peak": planned.total,
        "planned_static": planned.static,
        "gathered": of_step["gather"],
        "reduced": of_step["reduce"],
        "planned_gathered": traffic.gathered,
        "planned_reduced": traffic.reduced,
        "validation_gathered": collectives.bytes["gather"],
        "validation_reduced": collectives.bytes.get("reduce", 0),
        "planned_validation_gathered": validation_traffic(size, launch, rows=1).gathered,
    }


def _compare_nothing_between_processes() -> None:
    """DeepSpeed compares the order of modules between processes; there are neither other processes nor values."""
    from deepspeed.runtime.zero import partitioned_param_coordinator

    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda ints: None


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    numbers = [int(text) for text in sys.argv[1:]]
    cases = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    with one_of(PROCESSES) as collectives:
        _compare_nothing_between_processes()
        figures = [simulate(layers, tokens, bool(recompute), collectives) for layers, tokens, recompute in cases]
    print(json.dumps(figures))
