"""One of eight processes of the 30B's training without a GPU and without values: tensors have shapes alone.

    python -m tests.simulated LAYERS ROW_TOKENS RECOMPUTE SPREAD [LAYERS ROW_TOKENS RECOMPUTE SPREAD]...

prints a JSON list: for each case the GiB that two optimizer steps hold, counted on the storages of torch's fake tensors
and planned, and the bytes that the second step and a validation gather, reduce and exchange. SPREAD is 1 for experts
that are spread over the processes, and 0 for ZeRO-3. The tensors are in bfloat16 and the optimizer is fused, as on a
GPU. In a process of its own, because some functions of DeepSpeed are replaced.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.distributed.expert_parallel import AllToAllEP

from persona.modeling.expert_parallel import expert_mesh
from persona.modeling.packing import RowPlan, TokenTable, tokens_to_compute
from persona.planning.cost import GIB, Launch, Traffic, forward_traffic, memory, model_size, step_traffic
from persona.training.engine import optimizer_step
from persona.training.loop import accumulate, mean_nll
from persona.training.settings import Optimization
from tests.gpu.real_model import partitioned_engine, random_samples, real_config, spread_engine
from tests.loopback import Counted, one_of

DEEPSPEED = Path(__file__).parents[1] / "config" / "deepspeed"
PROCESSES = 8


class Storages(TorchDispatchMode):
    """Counts the bytes of all storages that exist. Tensors have no values; where one is asked for it is 0.

    Where a whole number is asked for it is `number`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.number = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0 if args[0].is_floating_point() else self.number
        output = func(*args, **(kwargs or {}))
        for each in tree_leaves(output):
            if isinstance(each, torch.Tensor) and each.device.type != "meta":
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


@contextmanager
def even_choices(storages: Storages) -> Iterator[None]:
    """Each process gets as many tokens from each other one: without values no token chooses."""
    dispatch = AllToAllEP._dispatch_tokens

    def dispatch_evenly(self: Any, hidden: Any, chosen: torch.Tensor, weights: Any) -> Any:
        storages.number = chosen.numel() // PROCESSES
        try:
            return dispatch(self, hidden, chosen, weights)
        finally:
            storages.number = 0

    with patch.object(AllToAllEP, "_dispatch_tokens", dispatch_evenly):
        yield


def simulate(
    n_layers: int,
    table: TokenTable,
    rows: list[RowPlan],
    row_tokens: int,
    recompute: bool,
    spread: bool,
    collectives: Counted,
) -> dict[str, float]:
    """Figures of two optimizer steps, and as planned. Call within `one_of`.

    Args:
        rows: of this process, in each step.
        row_tokens: of the longest row, for the plan of the memory.
    """
    settings = Optimization(gradient_checkpointing=recompute)
    targets = np.unique([sample for row in rows for sample in row.members])
    tokens, micro_steps = tokens_to_compute(table, rows), len(rows)
    mesh = expert_mesh(PROCESSES)
    file = DEEPSPEED / ("zero1.json" if spread else "zero3.json")
    with FakeTensorMode(allow_non_fake_inputs=True), Storages() as storages, even_choices(storages):
        if spread:
            # The model is where it should be, and a weight without values cannot be exchanged for a copy.
            with patch.object(torch.nn.Module, "to", lambda module, *_, **__: module):
                engine = spread_engine(real_config(n_layers), settings, file, mesh, torch.bfloat16)
        else:
            engine = partitioned_engine(n_layers, settings, file)
        for group in engine.optimizer.optimizer.param_groups:
            group["fused"] = True
        storages.peak = 0
        for _ in range(2):
            collectives.reset()
            accumulate(engine, table, targets, [rows] * PROCESSES)
            optimizer_step(engine)
        peak, static, of_step = storages.peak / GIB, storages.now / GIB, dict(collectives.bytes)
        collectives.reset()
        mean_nll(engine, table, [rows[:1]] * PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        real_config(n_layers).save_pretrained(folder)
        size = model_size(folder, None)
    launch = Launch.from_deepspeed(file, PROCESSES, 2, PROCESSES if spread else 1)
    planned = memory(size, launch, row_tokens, recompute)
    traffic = step_traffic(size, launch, micro_steps, tokens, recompute)
    of_validation = forward_traffic(size, launch, 1, tokens_to_compute(table, rows[:1]))
    return {
        "peak": peak,
        "static": static,
        "planned_peak": planned.total,
        # Below ZeRO-3 gradients and buckets are let go of after each step.
        "planned_static": planned.weights + planned.optimizer if spread else planned.static,
        "gathered": of_step["gather"],
        "reduced": of_step["reduce"],
        "exchanged": of_step.get("exchange", 0),
        "moved": Traffic(of_step["gather"], of_step["reduce"], of_step.get("exchange", 0)).moved(launch),
        "planned_moved": traffic.moved(launch),
        "planned_exchanged": traffic.exchanged,
        "planned_gathered": traffic.gathered,
        "planned_reduced": traffic.reduced,
        "validation_gathered": collectives.bytes.get("gather", 0),
        "validation_exchanged": collectives.bytes.get("exchange", 0),
        "validation_reduced": collectives.bytes.get("reduce", 0),
        "planned_validation_gathered": of_validation.gathered,
        "planned_validation_exchanged": of_validation.exchanged,
    }


def compare_nothing_between_processes() -> None:
    """DeepSpeed compares the order of modules between processes; there are neither other processes nor values."""
    from deepspeed.runtime.zero import partitioned_param_coordinator

    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda ints: None


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    numbers = [int(text) for text in sys.argv[1:]]
    cases = zip(numbers[::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True)
    with one_of(PROCESSES) as collectives:
        compare_nothing_between_processes()
        figures = []
        for layers, tokens, recompute, spread in cases:
            table = random_samples(tokens // 256, 192, 64)
            row = RowPlan(list(range(len(table))), [0] * len(table))
            # Gradients of spread experts stay from one micro-step to the next.
            rows = [row, row] if spread else [row]
            figures.append(simulate(layers, table, rows, tokens, bool(recompute), bool(spread), collectives))
    print(json.dumps(figures))
