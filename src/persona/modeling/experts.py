"""Mixtures of experts: a check of the grouped matrix product that computes them."""

from __future__ import annotations

import torch
from torch.nn import functional

EMPTY = [1, 3]


def empty_experts_get_no_gradient(device: torch.device) -> bool:
    """Whether the gradients of experts that no token chose are 0, as they must be.

    Some versions of torch leave them uninitialised on some GPUs (https://github.com/pytorch/pytorch/issues/172439).
    """
    shape, dtype = (4, 64, 64), torch.bfloat16
    # Memory that is handed out again then holds no zeros.
    poison = [torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in range(4)]
    del poison
    weights = torch.ones(shape, dtype=dtype, device=device, requires_grad=True)
    tokens = torch.ones(8, 64, dtype=dtype, device=device, requires_grad=True)
    ends = torch.tensor([4, 4, 8, 8], dtype=torch.int32, device=device)
    output = functional.grouped_mm(tokens, weights, offs=ends)
    [gradient] = torch.autograd.grad(output, [weights], torch.ones_like(output))
    return not bool(gradient[EMPTY].any())
