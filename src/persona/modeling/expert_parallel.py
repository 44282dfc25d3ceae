"""Expert parallelism: each process holds some experts of every layer, and tokens travel to them instead of weights.

The exchange of tokens is transformers' own (`transformers.distributed.expert_parallel.AllToAllEP`). It drops no token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from persona.base_model import cannot_be_spread, n_experts
from persona.errors import PersonaError
from persona.modeling.loading import default_device, load_config, load_partitioned_model
from persona.modeling.processes import TIMEOUT

DEGREE = "expert_parallel_degree"  # attribute of a weight of which a process holds one part of so many


def load_with_spread_experts(path: str, dtype: torch.dtype, attention: str, degree: int) -> tuple[Any, DeviceMesh]:
    """Load a model of which this process holds the experts of its rank, and all other weights.

    Rank 0 reads the weights and DeepSpeed divides them among the processes, as for ZeRO-3; then they are gathered one
    by one, and each process keeps what it needs. So no device ever holds the whole model.

    Every rank of the process group calls it, after DeepSpeed's communication was started and after `check_weights`.

    Args:
        degree: processes over which the experts are spread; it must divide the number of processes.

    Returns:
        The model and the mesh of processes, see `expert_mesh`.

    Raises:
        PersonaError: the model has no experts that can be spread, or not a multiple of `degree`.
    """
    from transformers.integrations import HfDeepSpeedConfig

    if dist.get_world_size() % degree:
        raise PersonaError(
            f"expert_parallel: {degree} does not divide the {dist.get_world_size()} processes; choose a divisor"
        )
    if problem := cannot_be_spread(n_experts(load_config(path).to_dict()), degree):
        raise PersonaError(f"{path}: {problem}")
    partitioning = HfDeepSpeedConfig(
        {
            "train_micro_batch_size_per_gpu": 1,
            "bf16": {"enabled": dtype == torch.bfloat16},
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        }
    )
    model = load_partitioned_model(path, dtype, attention)
    del partitioning
    mesh = expert_mesh(degree)
    _spread(model, path, mesh)
    return model, mesh


def expert_mesh(degree: int) -> DeviceMesh:
    """All processes: `experts` are `degree` neighbours that hold all experts, `replicas` hold the same ones.

    The third dimension, `same_tokens`, is of one process: no two compute the same tokens.
    """
    ranks = torch.arange(dist.get_world_size()).view(-1, degree, 1)
    lines = (ranks[:, :, 0].T, ranks[:, :, 0], ranks.view(-1, 1))
    make: Any = dist.new_subgroups_by_enumeration  # without types
    groups = [make(of.tolist(), timeout=TIMEOUT)[0] for of in lines]
    return DeviceMesh.from_group(
        groups, default_device().type, mesh=ranks, mesh_dim_names=("replicas", "experts", "same_tokens")
    )


def parts(parameter: Any) -> int:
    """Into how many parts a weight is spread; 1 for a weight that every process holds."""
    return int(getattr(parameter, DEGREE, 1))


def whole_numel(parameter: Any) -> int:
    """Elements of a weight of which this process may hold a part only."""
    return int(getattr(parameter, "ds_numel", parameter.numel() * parts(parameter)))


def gather_on_first(parameter: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor | None:
    """A spread weight, whole and in host memory, on rank 0; None on all others. Every rank calls it."""
    if mesh["replicas"].get_local_rank() > 0:  # the first group of processes holds all experts
        return None
    is_first = mesh["experts"].get_local_rank() == 0
    received = [torch.empty_like(parameter) for _ in range(mesh["experts"].size())] if is_first else None
    dist.gather(parameter.detach(), received, group=mesh["experts"].get_group(), group_dst=0)
    return torch.cat([part.cpu() for part in received]) if received else None


def _spread(model: Any, path: str, mesh: DeviceMesh) -> None:
    """Replace the partitioned weights of a model by whole ones, those of experts by the ones of this process."""
    from deepspeed.runtime.zero import GatheredParameters
    from transformers.distributed.expert_parallel import AllToAllEP

    degree, own = mesh["experts"].size(), mesh["experts"].get_local_rank()
    spread = dict(_spread_parameters(model, path))
    replaced: dict[int, nn.Parameter] = {}  # one parameter may stand in two modules
    for module_name, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            is_spread = f"{module_name}.{name}" in spread
            if parameter.ds_id not in replaced:
                with GatheredParameters([parameter]):
                    weight = parameter.data.chunk(degree)[own] if is_spread else parameter.data
                    replaced[parameter.ds_id] = nn.Parameter(weight.clone(), parameter.requires_grad)
                parameter.ds_tensor = None  # the parameter refers to itself, so it would keep its part for a while
                if is_spread:
                    setattr(replaced[parameter.ds_id], DEGREE, degree)
            module.register_parameter(name, replaced[parameter.ds_id])
    for module in set(spread.values()):
        module.num_experts //= degree
        module.forward = AllToAllEP(module, mesh["experts"], mesh["same_tokens"])


def _spread_parameters(model: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Names of the weights that are spread, with their modules, by the plan that transformers has for the model.

    Raises:
        PersonaError: it has none.
    """
    plan = {re.escape(name).replace(r"\*", r"\d+"): style for name, style in model.ep_plan.items()}
    modules = dict(model.named_modules())
    found = False
    for name, _ in model.named_parameters():
        if any(style == "grouped_gemm" and re.fullmatch(pattern, name) for pattern, style in plan.items()):
            found = True
            yield name, modules[name.rpartition(".")[0]]
    if not found:
        raise PersonaError(
            f"{path}: transformers has no plan to spread its experts over processes; leave out expert_parallel"
        )
