"""Progress bars that reach the person's terminal though a command's output goes to its log."""

from __future__ import annotations

import os
from typing import Any

import psutil
from tqdm import tqdm


def progress_bar(total: int, done: int, description: str, unit: str) -> Any:
    """A bar on the terminal of the parent process; None without a terminal.

    torchrun gives its processes a session of their own, so the terminal is that of the parent.
    """
    name = psutil.Process(os.getppid()).terminal()
    if name is None:
        return None
    terminal = open(name, "w")  # noqa: SIM115 - open as long as the bar
    return tqdm(total=total, initial=done, desc=description, unit=unit, file=terminal, dynamic_ncols=True)
