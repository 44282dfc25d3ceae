"""Shows progress bars on the terminal, although the output of a command goes to its log file."""

from __future__ import annotations

import os
from typing import Any

import psutil
from tqdm import tqdm


def progress_bar(total: int, done: int, description: str, unit: str) -> Any:
    """Show a progress bar on the terminal of the parent process.

    torchrun starts its processes in a new session without a terminal, so that of the parent is used.

    Args:
        total, done: the number of all units and of those that are done.
        description: the text before the bar.
        unit: the name of a unit, such as `step`.

    Returns:
        A `tqdm` bar, or None if there is no terminal.
    """
    name = psutil.Process(os.getppid()).terminal()
    if name is None:
        return None
    terminal = open(name, "w")  # noqa: SIM115 - open as long as the bar
    return tqdm(total=total, initial=done, desc=description, unit=unit, file=terminal, dynamic_ncols=True)
