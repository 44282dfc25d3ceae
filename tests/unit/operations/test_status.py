"""What `python -m persona status` says of trainings."""

from __future__ import annotations

from pathlib import Path

from persona.operations.runs import find_runs
from persona.operations.status import progress, status_table
from tests.unit.operations.trainings import FACTORS, grow_old, train_a_little


def test_a_running_training_says_how_far_it_is(results: Path) -> None:
    train_a_little(results)
    [run] = find_runs(results)
    p = progress(run)
    assert (p.epoch, p.step, p.total_steps, p.loss, p.best_val_loss, p.best_epoch) == (2, 30, 100, 2.7, 2.75, 1)
    assert p.seconds_left == 70 * 20.0
    line = status_table(results).splitlines()[1]
    assert line.startswith(f"dmsc/{FACTORS}/v1  running, ")
    assert line.endswith("2      30/100  2.7000  2.7500 (epoch 1)  20.00   0:23:20       step 20")


def test_a_line_that_is_just_being_written_is_not_read(results: Path) -> None:
    run = train_a_little(results)
    with (run / "train_log.jsonl").open("a") as log:
        log.write('{"type": "step", "ep')
    assert progress(find_runs(results)[0]).step == 30


def test_a_silent_training_and_a_finished_one_say_so(results: Path) -> None:
    run = train_a_little(results)
    grow_old(run)
    assert "  silent for 3:00:0" in status_table(results)
    (run / "finished.json").write_text("{}")
    assert "  finished  " in status_table(results)
