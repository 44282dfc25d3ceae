"""Which folders are trainings, and whether one may be training now."""

from __future__ import annotations

import fcntl
from pathlib import Path

from persona.operations.runs import find_runs
from tests.unit.operations.trainings import FACTORS, grow_old, train_a_little


def test_runs_are_found_with_their_versions(results: Path) -> None:
    for version in ("v2", "v10", "v1-0123456789ab", "v1"):
        train_a_little(results, version)
    (results / "dmsc" / "runs" / FACTORS / "vnotes").mkdir()
    runs = find_runs(results)
    assert [run.path.name for run in runs] == ["v1", "v1-0123456789ab", "v10", "v2"]
    assert [run.version for run in runs] == [1, 1, 10, 2]
    assert [run.set_aside for run in runs] == [False, True, False, False]
    assert runs[0].results == results / "dmsc" and runs[0].factors == str(FACTORS)


def test_a_run_may_be_training_while_it_is_locked_or_fresh(results: Path) -> None:
    train_a_little(results)
    [run] = find_runs(results)
    assert run.may_be_training and not run.locked
    grow_old(run.path)
    assert not run.may_be_training
    with (run.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        grow_old(run.path)
        assert run.locked and run.may_be_training


def test_a_run_without_a_log_is_silent_for_ever(results: Path) -> None:
    run = train_a_little(results)
    (run / "train_log.jsonl").unlink()
    assert find_runs(results)[0].seconds_silent() == float("inf")
