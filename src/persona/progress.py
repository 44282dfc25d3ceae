"""Progress that reaches the person, though a command's output goes to its log."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

from persona.units import clock

PAUSE = 5.0  # seconds between two lines, at least


def progress_bar(total: int, done: int, description: str, unit: str) -> Any:
    """A bar on a terminal, a `ProgressLines` elsewhere; both have `update`, `set_postfix` and `close`.

    It goes to the file that the environment variable `PROGRESS` names (see `launch.sh`), else to stderr.
    """
    file = _progress_file()
    if file.isatty():
        return tqdm(total=total, initial=done, desc=description, unit=unit, file=file, dynamic_ncols=True)
    return ProgressLines(total, done, description, unit, file)


def _progress_file() -> TextIO:
    with suppress(OSError, KeyError):
        return open(os.environ["PROGRESS"], "w", encoding="utf-8")  # noqa: SIM115 - open as long as the bar
    return sys.stderr


class ProgressLines:
    """Now and then a line on how far the work is and how long it still takes, the more rarely the longer it runs.

    Work that is done within `PAUSE` seconds prints nothing.
    """

    def __init__(self, total: int, done: int, description: str, unit: str, file: TextIO) -> None:
        self.total, self.done, self.description, self.unit, self.file = total, done, description, unit, file
        self.first, self.facts = done, ""
        self.started = time.monotonic()
        self.printed, self.due = False, self.started + PAUSE

    def set_postfix(self, **facts: object) -> None:
        """What the next lines tell beside the progress."""
        self.facts = "".join(f", {name} {value}" for name, value in facts.items())

    def update(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now >= self.due and self.done < self.total:
            self._print(f"{clock(self._seconds_left(now))} left")
            self.due = now + max(PAUSE, (now - self.started) / 20)

    def close(self) -> None:
        if self.printed:
            self._print(f"took {clock(time.monotonic() - self.started)}")

    def _seconds_left(self, now: float) -> float:
        return (now - self.started) / (self.done - self.first) * (self.total - self.done)

    def _print(self, time_text: str) -> None:
        self.printed = True
        text = f"{self.description}: {self.unit} {self.done}/{self.total}{self.facts}, {time_text}"
        with suppress(OSError):  # nobody listens any more; the work goes on
            print(text, file=self.file, flush=True)
