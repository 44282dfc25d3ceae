"""When a checkpoint is due, how it is written behind the training, and what is kept of the best weights."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from persona.modeling.processes import process_group
from persona.training import saving
from persona.training.saving import BestWeights, CheckpointWriter, SaveTimer, fits_in_host_memory, in_host_memory


def writer() -> CheckpointWriter:
    return CheckpointWriter(SimpleNamespace(checkpoint_engine=SimpleNamespace()))


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_checkpoint_is_due_after_some_minutes_or_later_where_saving_takes_long() -> None:
    clock = Clock()
    timer = SaveTimer(minutes=30, share=0.03, clock=clock)
    # Held up for so many seconds by the last checkpoint, how long until the next: 3 s are 3 % of 100 s, which is sooner
    # than 30 minutes; 90 s are 3 % of 3,000 s.
    for held_up, seconds in ((None, 1800.0), (3.0, 1800.0), (90.0, 3000.0)):
        if held_up is not None:
            timer.saved(held_up)
        clock.now += seconds - 1
        assert not timer.is_due
        clock.now += 1
        assert timer.is_due


def test_a_file_written_behind_the_training_holds_what_was_there_when_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    write = saving._write

    def write_later(state: Any, path: str) -> None:
        assert may_write.wait(10)
        write(state, path)

    monkeypatch.setattr(saving, "_write", write_later)
    behind = writer()
    behind.behind = True
    state: dict[str, Any] = {"weights": torch.arange(3.0), "groups": [(torch.zeros(2), 7)], "step": 4}
    behind.save(state, str(tmp_path / "state.pt"))
    state["weights"] += 1
    state["groups"][0][0].fill_(9.0)
    assert behind.is_writing and not (tmp_path / "state.pt").exists()
    may_write.set()
    behind.wait()
    assert not behind.is_writing
    read = torch.load(tmp_path / "state.pt", weights_only=True)
    assert read["weights"].tolist() == [0.0, 1.0, 2.0] and read["step"] == 4
    assert read["groups"][0][0].tolist() == [0.0, 0.0] and read["groups"][0][1] == 7


def test_a_file_that_cannot_be_written_is_told_when_it_is_waited_for(tmp_path: Path) -> None:
    behind = writer()
    behind.behind = True
    behind.save({"step": 1}, str(tmp_path / "no such folder" / "state.pt"))
    with pytest.raises(FileNotFoundError):
        behind.wait()
    assert not behind.failed, "the error was told and is forgotten"


def test_a_copy_shares_nothing_with_the_state() -> None:
    state: dict[str, Any] = {"a": torch.zeros(2), "b": [torch.zeros(1)]}
    copy = in_host_memory(state)
    state["a"][0] = 1.0
    state["b"][0][0] = 1.0
    assert copy["a"].tolist() == [0.0, 0.0] and copy["b"][0].tolist() == [0.0]


def test_copies_larger_than_the_memory_of_the_host_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=50 * gib, total=100 * gib))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert fits_in_host_memory(4 * gib)
    assert not fits_in_host_memory(6 * gib)  # 48 of 50 GiB, and 10 must stay free


def test_the_best_weights_are_restored_as_they_were_kept(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    with process_group(deepspeed=False):
        best = BestWeights()
        best.keep(model)
        kept = model.weight.detach().clone()
        with torch.no_grad():
            model.weight.add_(1)
            model.bias.add_(1)
        bias = model.bias.detach().clone()
        best.save(writer(), tmp_path)
        again = BestWeights()
        again.load(tmp_path)
        assert again.n_bytes == best.n_bytes == kept.nbytes
        again.restore(model)
    assert torch.equal(model.weight, kept) and torch.equal(model.bias, bias)
