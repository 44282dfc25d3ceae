"""Stop between two steps when told to, after a checkpoint is saved."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

import torch
import torch.distributed as dist

# torchrun forwards these: a cluster's time limit or preemption, a cancelled job, Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Once it listens, a signal is recorded instead of ending the process."""

    def __init__(self, signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self.name = ""  # of the signal that came
        self.signals = signals

    def listen(self) -> None:
        """Record signals from now on. Before the first step there is nothing to save."""
        for number in self.signals:
            signal.signal(number, self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name


def any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is set on any rank. All ranks must call this together, and all get the same answers."""
    answers = torch.tensor(list(flags), dtype=torch.int32, device=device)
    dist.all_reduce(answers, dist.ReduceOp.MAX)
    return [bool(answer) for answer in answers.tolist()]
