"""One process that trains as one of eight: the other seven hold copies of its part of the weights.

What would come from the others is a copy of what this process holds, so memory, kernels and the work of the host are
those of the real training; values and traffic are not. DeepSpeed calls the collectives through one object, whose
functions are replaced here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from persona.modeling.processes import process_group


class Done:
    """A collective that is complete."""

    def wait(self, *_: Any) -> bool:
        """Nothing to wait for."""
        return True


class Counted:
    """How many collectives of a kind were called, and the bytes that they made or took."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.bytes: dict[str, int] = {}

    def add(self, kind: str, tensor: torch.Tensor) -> None:
        """Count one call."""
        self.calls[kind] = self.calls.get(kind, 0) + 1
        self.bytes[kind] = self.bytes.get(kind, 0) + tensor.numel() * tensor.element_size()

    def reset(self) -> None:
        """Start again from 0."""
        self.calls, self.bytes = {}, {}


@contextmanager
def one_of(n_processes: int) -> Iterator[Counted]:
    """Rank 0 of a group of so many processes, of which only this one exists."""
    counted = Counted()

    def gather(output_tensor: Any, input_tensor: Any, group: Any = None, async_op: bool = False) -> Any:
        counted.add("gather", output_tensor)
        output_tensor.view(n_processes, -1).copy_(input_tensor.view(1, -1).expand(n_processes, -1))
        return Done() if async_op else None

    def scatter(
        output_tensor: Any, input_tensor: Any, op: Any = None, group: Any = None, async_op: bool = False
    ) -> Any:
        counted.add("reduce", input_tensor)
        output_tensor.view(-1).copy_(input_tensor.view(n_processes, -1)[0])
        return Done() if async_op else None

    def reduce_to_one(tensor: Any, dst: int, op: Any = None, group: Any = None, async_op: bool = False) -> Any:
        counted.add("reduce", tensor)
        return Done() if async_op else None

    class Exchange(torch.autograd.Function):
        """Hidden states that go to the experts of all processes; as many come back."""

        @staticmethod
        def forward(ctx: Any, sent: torch.Tensor, received: list[int]) -> torch.Tensor:
            counted.add("exchange", sent)
            ctx.n_sent = len(sent)
            return sent[torch.arange(sum(received), device=sent.device) % len(sent)]

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
            counted.add("exchange", gradient)
            return gradient[torch.arange(ctx.n_sent, device=gradient.device) % len(gradient)], None

    def exchange_counts(received: torch.Tensor, sent: torch.Tensor, group: Any = None) -> None:
        """As many come as are sent, evenly to all experts: the experts of random weights are not chosen evenly."""
        total, n = sent.sum(), received.numel()
        received.view(-1).copy_(total // n + (torch.arange(n, device=sent.device) < total % n))

    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=n_processes)
    try:
        with process_group():
            from deepspeed import comm

            backend = comm.comm.cdb
            backend.all_gather_function, backend.reduce_scatter_function = gather, scatter
            backend.reduce = reduce_to_one
            with patch.multiple(
                "transformers.distributed.expert_parallel",
                all_to_all_single=exchange_counts,
                all_to_all_single_autograd=lambda sent, received, _, group: Exchange.apply(sent, received),
            ):
                yield counted
    finally:
        dist.destroy_process_group()
