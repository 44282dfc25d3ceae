"""Stop between two steps when told to, with everything saved."""

from __future__ import annotations

import signal
from types import FrameType

import torch
import torch.distributed as dist

# torchrun hands them on: a cluster's time limit or preemption, a cancelled job, Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes a signal instead of ending by it, once it listens."""

    def __init__(self) -> None:
        self.name = ""

    def listen(self) -> None:
        """From now on; before there is nothing to save."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def any_rank_requested(self, device: torch.device) -> bool:
        """Whether any rank was told to stop. All ranks must ask, and all get the same answer."""
        told = torch.tensor(int(bool(self.name)), device=device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told)
