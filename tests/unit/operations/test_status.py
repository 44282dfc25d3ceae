"""What `python -m persona status` says of trainings."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from persona.errors import PersonaError
from persona.operations.runs import find_runs
from persona.operations.status import progress, status_table
from persona.training.checkpoints import RunFolder
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


def test_a_stopped_training_leaves_its_word_until_it_goes_on(results: Path) -> None:
    run = train_a_little(results)
    with pytest.raises(PersonaError), closing(RunFolder(run)) as folder, folder.leaving_word():
        folder.claim({})
        assert "  running, " in status_table(results)
        raise PersonaError("stopped by SIGINT; the same command resumes after step 20")
    _header, line, word = status_table(results).splitlines()
    assert "  stopped, see below  " in line
    assert word == f"dmsc/{FACTORS}/v1: stopped by SIGINT; the same command resumes after step 20"
    with closing(RunFolder(run)) as folder:
        folder.claim({})
        assert "  running, " in status_table(results) and "SIGINT" not in status_table(results)


def test_a_training_that_was_killed_does_not_run(results: Path) -> None:
    """Also one that was killed before its first step, so that it has no log."""
    run = train_a_little(results)
    (run / "train_log.jsonl").unlink()
    script = """
import os, sys
from pathlib import Path
from persona.training.checkpoints import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.claim({})
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script, str(run)], check=False).returncode == -9
    assert "  ended without a word" in status_table(results)


def test_who_finds_the_folder_locked_leaves_the_word_to_the_holder(results: Path) -> None:
    run = train_a_little(results)
    with closing(RunFolder(run)) as holder:
        holder.claim({})
        other = RunFolder(run)
        with pytest.raises(PersonaError, match="another process"), other.leaving_word():
            other.claim({})
        assert "  running, " in status_table(results)
