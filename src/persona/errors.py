"""Errors for the person at the keyboard, and how a command reports them."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

# The disk or the user's quota is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


# The extras `train` and `page` of pyproject.toml; the data steps do without.
TRAIN_PACKAGES = {"torch", "deepspeed", "accelerate", "peft", "wandb"}
PAGE_PACKAGES = {"starlette", "uvicorn"}


# What is left to say where another process failed. `fail.sh` shows it only if no process said more.
LOST = "another process ended or did not answer; its own error, if it left one, is in the log"
_CONNECTION_LOST = ("Connection closed by peer", "Timed out waiting", "Connection reset by peer")


class PersonaError(Exception):
    """An error that the user can correct. Its message says in one line what is wrong, where, and what to do."""


def explain_missing_package(error: ModuleNotFoundError) -> str:
    """The message of an import that failed, with what to install if the package belongs to an extra."""
    package = (error.name or "").partition(".")[0]
    if package in TRAIN_PACKAGES:
        return f"{package} is not installed; training and evaluation need it: pip install -e '.[train]'"
    if package in PAGE_PACKAGES:
        return f"{package} is not installed; the page needs it: pip install -e '.[page]'"
    return f"{type(error).__name__}: {error}"


def run_command(main: Callable[[], None]) -> None:
    """Run `main`; on an error print the traceback and then one line `error: ...`, and exit with 1.

    The rules write the output of a command to its log file, and `fail.sh` shows that line on the terminal.
    """
    try:
        main()
    except Exception as error:
        traceback.print_exc()
        text = str(error) if isinstance(error, PersonaError) else f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            text = explain_missing_package(error)
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _CONNECTION_LOST):
            text = LOST
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            text = f"no room left on the disk ({error}); free some space and start again"
        print(f"error: {' '.join(text.split())}", file=sys.stderr, flush=True)
        sys.exit(1)
