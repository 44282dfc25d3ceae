"""The optimizer of spread experts, beside DeepSpeed's, which trains all other weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from persona.modeling.expert_parallel import parts
from persona.training.saving import CheckpointWriter
from persona.training.settings import Optimization


def mark_experts(model: torch.nn.Module, mesh: DeviceMesh) -> None:
    """Tell DeepSpeed, before it makes an engine, that processes hold different experts.

    It copies all other weights from rank 0 to the others.
    """
    from deepspeed.utils import groups

    degree = mesh["experts"].size()
    groups._create_expert_and_data_parallel(degree)
    for parameter in model.parameters():
        if parts(parameter) > 1:
            parameter.allreduce, parameter.group_name = False, f"ep_size_{degree}"  # type: ignore[attr-defined]


def keep_experts_apart(engine: Any) -> None:
    """Let the norm of an engine's gradients be that of all weights, and its checkpoints be without experts.

    DeepSpeed computes the norm once in each step, before it changes weights, so this also reduces the experts'
    gradients.
    """
    of_others = engine.optimizer.scaled_global_norm
    engine.optimizer.scaled_global_norm = lambda: (
        of_others().square() + engine.expert_optimizer.reduce_gradients()
    ).sqrt()

    def without_experts(module: torch.nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            if parts(parameter) > 1:
                del state[prefix + name]

    for module in engine.module.modules():
        if any(parts(parameter) > 1 for parameter in module.parameters(recurse=False)):
            module.register_state_dict_post_hook(without_experts)


class ExpertOptimizer:
    """AdamW for the experts that this process holds.

    Their gradients come from the tokens of all processes that share the experts, so they are reduced only where several
    groups of processes hold the same experts. The state is in float32, one tensor a weight; gradients are converted one
    weight at a time, so that they are never all there twice.
    """

    def __init__(self, model: torch.nn.Module, settings: Optimization, mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self._max_norm = settings.max_grad_norm
        self._weights = {name: p for name, p in model.named_parameters() if parts(p) > 1 and p.requires_grad}
        # A weight in float32 is its own master copy.
        self._masters = {name: p.detach().float().requires_grad_() for name, p in self._weights.items()}
        self._adam = torch.optim.AdamW(
            self._masters.values(), weight_decay=settings.weight_decay, betas=(0.9, 0.95), fused=True
        )

    def reduce_gradients(self) -> torch.Tensor:
        """Average the gradients over all processes; the sum of their squares, over all experts.

        All processes get the same bits, or experts that several hold would drift apart.
        """
        total = torch.zeros((), device=next(iter(self._weights.values())).device)
        for weight in self._weights.values():
            assert weight.grad is not None  # every forward pass reaches all experts, if only with no tokens
            weight.grad.div_(dist.get_world_size())
            if self.mesh["replicas"].size() > 1:
                dist.all_reduce(weight.grad, group=self.mesh["replicas"].get_group())
            total += torch.linalg.vector_norm(weight.grad, dtype=torch.float32).square()
        dist.all_reduce(total)
        return total / self.mesh["replicas"].size()

    def step(self, learning_rate: float, norm: float) -> None:
        """Change the weights by the reduced gradients, and forget these.

        Args:
            norm: of the gradients of all weights of the model.
        """
        clip = max(1.0, (norm + 1e-6) / self._max_norm)  # as DeepSpeed
        self._adam.param_groups[0]["lr"] = learning_rate
        for name, weight in self._weights.items():
            assert weight.grad is not None
            master = self._masters[name]
            master.grad = weight.grad.float().div_(clip)
            self._adam.step()  # of this weight alone: the others have no gradient
            master.grad = weight.grad = None
            weight.data.copy_(master)

    def save(self, writer: CheckpointWriter, checkpoint: Path) -> None:
        """Write the experts of this process and their state into a checkpoint."""
        state = {
            name: {"weight": master.detach(), **self._adam.state[master]} for name, master in self._masters.items()
        }
        writer.save(state, str(self._file(checkpoint)))

    def load(self, checkpoint: Path) -> None:
        """Read the experts of this process and their state from a checkpoint."""
        for name, state in torch.load(self._file(checkpoint), weights_only=True).items():
            master = self._masters[name]
            master.data.copy_(state.pop("weight"))
            self._weights[name].data.copy_(master)
            self._adam.state[master] = {key: value.to(master.device) for key, value in state.items()}

    def _file(self, checkpoint: Path) -> Path:
        return checkpoint / f"experts_rank_{dist.get_rank()}.pt"
