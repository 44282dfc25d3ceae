"""A command that fails ends with one line for the person at the keyboard."""

from __future__ import annotations

import errno

import pytest

from persona.errors import PersonaError, run_command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PersonaError("users.csv, row 3:\nno name"), "error: users.csv, row 3: no name"),
        (ValueError("two\n lines"), "error: ValueError: two lines"),
        (
            OSError(errno.ENOSPC, "no space left"),
            "error: no room left on the disk ([Errno 28] no space left); free some space",
        ),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "error: torch is not installed; training and"),
        (ModuleNotFoundError("No module named 'nose'", name="nose"), "error: ModuleNotFoundError: No module named"),
    ],
)
def test_the_last_line_says_what_is_wrong(error: Exception, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(fail)
    assert ended.value.code == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith(line)


def test_a_command_that_works_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run_command(lambda: None)
    assert capfd.readouterr() == ("", "")
