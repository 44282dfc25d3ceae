"""A signal is recorded and all ranks hear of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from persona.modeling.processes import process_group
from persona.training.stopping import SIGNALS, StopRequest, any_rank

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_recorded_instead_of_ending_the_process(number: signal.Signals) -> None:
    stop = StopRequest()
    stop.listen()
    with process_group(deepspeed=False):
        assert any_rank([bool(stop.name), True], CPU) == [False, True]
        os.kill(os.getpid(), number)
        assert any_rank([bool(stop.name), False], CPU) == [True, False]
    assert stop.name == number.name


def test_without_signals_the_handlers_stay_as_they_are() -> None:
    StopRequest(signals=()).listen()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
