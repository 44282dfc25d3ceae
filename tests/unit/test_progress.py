"""Progress reaches a terminal as a bar, and anything else as lines from time to time."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from persona.progress import ProgressLines, progress_bar

# The terminal is named by PROGRESS; the command's own output is not one.
BAR = """
from persona.progress import progress_bar
bar = progress_bar(10, 3, "training", "step")
bar.set_postfix(loss="1.5")
bar.update(2)
bar.close()
"""


def read_all(terminal: int) -> str:
    """Read a terminal whose other end is closed; Linux reports that as an error after the last bytes."""
    written = b""
    with suppress(OSError):
        while block := os.read(terminal, 10_000):
            written += block
    return written.decode()


def run_with_progress(file: str) -> str:
    """Run `BAR` with its progress going to a file; its own output."""
    environment = os.environ | {"PROGRESS": file}
    command = [sys.executable, "-c", BAR]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return finished.stdout + finished.stderr


def test_a_terminal_gets_a_bar() -> None:
    terminal, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    assert run_with_progress(os.ttyname(child)) == ""
    os.close(child)
    shown = read_all(terminal)
    assert "training" in shown and "3/10" in shown and "5/10" in shown and "loss=1.5" in shown


def test_short_work_prints_nothing_elsewhere(tmp_path: Path) -> None:
    assert run_with_progress(str(tmp_path / "file")) == ""
    assert (tmp_path / "file").read_text() == ""


def test_lines_tell_what_is_done_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("persona.progress.time.monotonic", lambda: now)
    file = io.StringIO()
    lines = ProgressLines(10, 2, "training", "step", file)
    for _ in range(8):
        now += 4
        lines.set_postfix(loss="1.5")
        lines.update()
    lines.close()
    # Every 5 seconds at most; 8 steps in all, of which 6 are left after 8 seconds.
    first, *_, last = file.getvalue().splitlines()
    assert first == "training: step 4/10, loss 1.5, 0:00:24 left"
    assert last == "training: step 10/10, loss 1.5, took 0:00:32"
    assert len(file.getvalue().splitlines()) == 4


def test_of_several_processes_only_one_shows_it(capfd: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar(10, 0, "training", "step", is_shown=False)
    bar.set_postfix(loss="1.5")
    bar.update(10)
    bar.close()
    assert capfd.readouterr() == ("", "")
