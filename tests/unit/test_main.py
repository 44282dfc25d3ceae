"""`python -m persona` as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_command_answers_in_one_line_where_nothing_is(tmp_path: Path) -> None:
    def persona(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "persona", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    missing = persona("status")
    assert missing.returncode == 1
    assert missing.stderr == (
        "error: results: no such folder; give the folder that is results_dir in your configuration\n"
    )
    (tmp_path / "results").mkdir()
    assert persona("status").stdout == "no trainings in results\n"
