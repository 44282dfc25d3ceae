"""A progress bar is written to the terminal of the parent process, or nowhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

# Its parent has the terminal; its own output is not one.
BAR = """
from persona.progress import progress_bar
bar = progress_bar(10, 3, "training", "step")
if bar is None:
    print("none")
else:
    bar.update(2)
    bar.close()
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


def read_all(terminal: int) -> str:
    """Read a terminal whose other end is closed; Linux reports that as an error after the last bytes."""
    written = b""
    with suppress(OSError):
        while block := os.read(terminal, 10_000):
            written += block
    return written.decode()


def test_the_bar_is_on_the_terminal_of_the_parent(tmp_path: Path) -> None:
    terminal, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    with (tmp_path / "log").open("w") as log:
        subprocess.run(
            ["setsid", "--ctty", "--wait", sys.executable, "-c", PARENT, BAR],
            stdin=child,
            stdout=log,
            stderr=log,
            check=True,
            timeout=60,
        )
    os.close(child)
    assert (tmp_path / "log").read_text() == ""
    shown = read_all(terminal)
    assert "training" in shown and "3/10" in shown and "5/10" in shown


def test_without_a_terminal_there_is_no_bar() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PARENT, BAR],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=True,
        timeout=60,
    )
    assert finished.stdout == "none\n"
