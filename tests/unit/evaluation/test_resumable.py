"""Work whose finished units are kept in files: what is computed again after a kill, and what is not."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona.errors import PersonaError
from persona.evaluation import resumable
from persona.evaluation.resumable import ResumableWork, Task

pytestmark = pytest.mark.usefixtures("one_process")

COMMON = {"model": "a"}


@pytest.fixture(autouse=True)
def every_unit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "SECONDS_PER_PART", 0.0)


class Killed(Exception):
    pass


class Worker:
    """Five units of 10 tokens, each with a number that JSON must not round; notes which are computed."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.computed: list[int] = []
        self.prepared = 0

    @property
    def task(self) -> Task:
        return Task("numbers", "counting", "token", [10] * 5, ["five"], self.prepare, self.compute)

    def prepare(self) -> None:
        self.prepared += 1

    def compute(self, n: int) -> tuple[Any, int]:
        if n == self.kill_at:
            raise Killed
        self.computed.append(n)
        return [n / 3, "text"], 10


EXPECTED = [[n / 3, "text"] for n in range(5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the first three units are done."""
    with pytest.raises(Killed):
        ResumableWork(tmp_path, COMMON).results(Worker(kill_at=3).task)
    return tmp_path


def test_finished_units_are_not_computed_again(folder: Path) -> None:
    worker = Worker()
    assert ResumableWork(folder, COMMON).results(worker.task) == EXPECTED
    assert worker.computed == [3, 4]


def test_nothing_is_loaded_where_all_is_done(folder: Path) -> None:
    for computed, prepared in ([3, 4], 1), ([], 0):
        worker = Worker()
        assert ResumableWork(folder, COMMON).results(worker.task) == EXPECTED
        assert (worker.computed, worker.prepared) == (computed, prepared)


@pytest.mark.parametrize(("common", "own"), [({"model": "b"}, ["five"]), (COMMON, ["others"])])
def test_parts_of_something_else_are_deleted(folder: Path, common: dict[str, str], own: list[str]) -> None:
    before = set((folder / "numbers").iterdir())
    worker = Worker(kill_at=0)
    with pytest.raises(Killed):
        ResumableWork(folder, common).results(replace(worker.task, fingerprint=own))
    assert len(before) == 3 and not any((folder / "numbers").iterdir())


def test_a_part_that_a_failing_disk_damaged_is_computed_again(folder: Path) -> None:
    part = folder / "numbers" / "1.json"
    part.write_bytes(part.read_bytes()[:-5])
    worker = Worker()
    assert ResumableWork(folder, COMMON).results(worker.task) == EXPECTED
    assert worker.computed == [1, 3, 4]


def test_the_end_of_another_process_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("torch.distributed.all_gather_object", closed)
    with pytest.raises(PersonaError, match=r"^counting: another process ended .* start again to go on$"):
        ResumableWork(tmp_path, COMMON).results(Worker().task)


def test_parts_are_few_where_units_are_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "SECONDS_PER_PART", 100.0)
    ResumableWork(tmp_path, COMMON).results(Worker().task)
    assert [file.name for file in tmp_path.rglob("*.json")] == ["0.json"]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ResumableWork(None, COMMON).results(Worker().task) == EXPECTED
    assert not any(tmp_path.iterdir())


def test_the_log_tells_what_was_done_before_and_how_far_it_is(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ResumableWork(folder, COMMON).results(Worker().task)
    first, fourth, fifth, last = caplog.messages
    assert first == "counting: 50 tokens, of which 30 are done already; processes: 1"
    assert fourth.startswith("counting: first process: 10 of 20 tokens, 0.0 s, ") and fourth.endswith(" left")
    assert fifth.startswith("counting: first process: 20 of 20 tokens") and fifth.endswith("0:00:00 left")
    assert last.startswith("counting: done in 0.0 s, 20 tokens, ")
