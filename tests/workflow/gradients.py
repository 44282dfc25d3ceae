"""Started by torchrun: write loss and full gradients of a step as the engine has them, rows made in several ways."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from persona.modeling.expert_parallel import parts
from persona.modeling.packing import TokenTable, plan_rows, tokens_to_compute
from persona.modeling.processes import distributed_processes
from persona.training.engine import build_engine, optimizer_step
from persona.training.loop import accumulate, step_targets
from persona.training.settings import Optimization
from tests.workflow.training import schedule


def full_gradient(engine: Any, parameter: torch.Tensor) -> torch.Tensor:
    """The gradient of a whole weight on every rank."""
    from deepspeed.utils import safe_get_full_grad

    if parts(parameter) == 1:
        return safe_get_full_grad(parameter).clone()
    mesh = engine.expert_optimizer.mesh
    assert parameter.grad is not None
    of_parts = [torch.empty_like(parameter.grad) for _ in range(mesh["experts"].size())]
    dist.all_gather(of_parts, parameter.grad, group=mesh["experts"].get_group())
    return torch.cat(of_parts)


def main(
    folder: Path, deepspeed: Path, optimization: Optimization, row_lengths: list[int], out: Path, base: str
) -> None:
    table = TokenTable.read(folder / "tokens.parquet")
    # At a learning rate of 0 a step only clears the gradients.
    engine = build_engine(str(folder / base), deepspeed, optimization, 1, 1, prefix_sharing=True)
    targets = step_targets(table.users, schedule(1), epoch=0)[0]
    found = {}
    for prefix_sharing, length in product([True, False], row_lengths):
        rows = plan_rows(table, targets, dist.get_world_size(), length, prefix_sharing)
        loss = accumulate(engine, table, targets, rows)
        if engine.expert_optimizer is not None:
            engine.expert_optimizer.reduce_gradients()  # as each step does
        named = engine.module.model.named_parameters()
        found[prefix_sharing, length] = {
            "loss": loss,
            "micro_steps": len(rows[0]),
            "computed_tokens": sum(tokens_to_compute(table, of_rank) for of_rank in rows),
            "gradients": {name: full_gradient(engine, p) for name, p in named},
        }
        if engine.expert_optimizer is None:
            engine.step()
        else:
            optimizer_step(engine)
    if dist.get_rank() == 0:
        torch.save(found, out)
    dist.barrier()


if __name__ == "__main__":
    folder, deepspeed, optimization, lengths, out, base = sys.argv[1:]
    settings = Optimization.model_validate_json(optimization)
    with distributed_processes():
        main(Path(folder), Path(deepspeed), settings, json.loads(lengths), Path(out), base)
