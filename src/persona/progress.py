"""Progress that reaches the person, although the output of a command goes to its log file."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

from persona.units import clock

PAUSE = 5.0  # seconds between two lines, at least


def progress_bar(total: int, done: int, description: str, unit: str, is_shown: bool = True) -> Any:
    """Show how far the work is: a bar on a terminal, `ProgressLines` elsewhere, nothing where `is_shown` is false.

    All have `update`, `set_postfix` and `close`. They write to the file that the environment variable `PROGRESS` names
    (see `launch.sh`), else to stderr.

    Args:
        total, done: the number of all units and of those that are done.
        description: the text before the bar.
        unit: the name of a unit, such as `step`.
        is_shown: of several processes one shows the progress.
    """
    if not is_shown:
        return tqdm(disable=True)
    file = _progress_file()
    if file.isatty():
        return tqdm(total=total, initial=done, desc=description, unit=unit, file=file, dynamic_ncols=True)
    return ProgressLines(total, done, description, unit, file)


def _progress_file() -> TextIO:
    with suppress(OSError, KeyError):
        return open(os.environ["PROGRESS"], "w", encoding="utf-8")
    return sys.stderr


class ProgressLines:
    """Prints a line from time to time: how far the work is, and how much time is left.

    The longer the work takes, the rarer the lines. Work that takes less than `PAUSE` seconds prints nothing.
    """

    def __init__(self, total: int, done: int, description: str, unit: str, file: TextIO) -> None:
        self.total, self.done, self.description, self.unit, self.file = total, done, description, unit, file
        self.first, self.facts = done, ""
        self.started = time.monotonic()
        self.printed, self.due = False, self.started + PAUSE

    def set_postfix(self, **facts: object) -> None:
        """Set what the next lines tell besides the progress."""
        self.facts = "".join(f", {name} {value}" for name, value in facts.items())

    def update(self, n: int = 1) -> None:
        """Note that so many more units are done."""
        self.done += n
        now = time.monotonic()
        if now >= self.due and self.done < self.total:
            self._print(f"{clock(self._seconds_left(now))} left")
            self.due = now + max(PAUSE, (now - self.started) / 20)

    def close(self) -> None:
        """Print the time that all took, if anything was printed."""
        if self.printed:
            self._print(f"took {clock(time.monotonic() - self.started)}")

    def _seconds_left(self, now: float) -> float:
        return (now - self.started) / (self.done - self.first) * (self.total - self.done)

    def _print(self, time_text: str) -> None:
        self.printed = True
        text = f"{self.description}: {self.unit} {self.done}/{self.total}{self.facts}, {time_text}"
        with suppress(OSError):  # the reader may be gone; the work goes on
            print(text, file=self.file, flush=True)
