"""How processes are started, and the last line on the terminal when they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from persona.errors import LOST

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
BIN = Path(sys.executable).parent


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, with the programs of this environment."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "SCRIPTS": str(SCRIPTS)} | variables
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def last_word(command: str, folder: Path, **variables: str) -> str:
    """The last line on the terminal when a command fails as a rule's does."""
    done = bash(f'{command} > log 2>&1 || bash "$SCRIPTS/fail.sh" log $?', folder, **variables)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


SHADOW = 'raise ImportError("libstdc++.so.6: version GLIBCXX_3.4.30 not found")\n'


def test_an_import_that_fails(tmp_path: Path) -> None:
    (tmp_path / "polars.py").write_text(SHADOW)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    said = last_word('python "$SCRIPTS/ingest.py" x --format jsonl', tmp_path, PYTHONPATH=path)
    assert said == "error: ImportError: libstdc++.so.6: version GLIBCXX_3.4.30 not found"


def test_an_import_that_fails_in_the_processes_of_torchrun(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(SHADOW)
    said = last_word('bash "$SCRIPTS/launch.sh" 1 2 x.py', tmp_path)
    assert said == "error: ImportError: libstdc++.so.6: version GLIBCXX_3.4.30 not found"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no_such_python x.py", "no_such_python: command not found"),
        ('python "$SCRIPTS/none.py"', "none.py': [Errno 2] No such file or directory"),
        ("python -c 'import os; os.kill(os.getpid(), 9)'", "killed, for memory perhaps (SIGKILL)"),
        ("python -c 'import os; os.kill(os.getpid(), 11)'", "killed by SIGSEGV"),
        ("(echo error: the first; echo error: the second; exit 1)", "error: the first"),
        (f"(echo 'error: step 3: {LOST}'; echo error: the cause; exit 1)", "error: the cause"),
        (f"(echo 'error: step 3: {LOST}'; exit 1)", f"error: step 3: {LOST}"),
        ("false", "ended with status 1 and without a word; no room to write perhaps"),
    ],
)
def test_a_command_that_fails(tmp_path: Path, command: str, said: str) -> None:
    word = last_word(command, tmp_path)
    assert word.startswith("error: ") and said in word


def test_a_process_of_torchrun_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import os\nprint('step 1', flush=True)\nos.kill(os.getpid(), 9)\n")
    assert last_word('bash "$SCRIPTS/launch.sh" 1 1 x.py', tmp_path) == "error: killed, for memory perhaps (SIGKILL)"


THREADS = """
import os
os.write(1, f"{os.environ['OMP_NUM_THREADS']} {os.environ['MKL_NUM_THREADS']}\\n".encode())
"""


@pytest.mark.parametrize(("of_the_job", "of_each"), [("5", "2 2"), ("1", "1 1"), ("", "1 1")])
def test_processes_share_the_cores_of_the_job(tmp_path: Path, of_the_job: str, of_each: str) -> None:
    (tmp_path / "x.py").write_text(THREADS)
    done = bash('bash "$SCRIPTS/launch.sh" 1 2 x.py', tmp_path, MKL_NUM_THREADS=of_the_job)
    assert done.stdout.split() == of_each.split() * 2


MEET = """
import os
import torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
os.write(1, b"met\\n")
dist.destroy_process_group()
"""


def test_processes_meet_on_a_machine_whose_name_nothing_resolves(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(MEET)
    start = 'hostname laptop-of-ann.invalid; bash "$SCRIPTS/launch.sh" 1 2 x.py'
    done = bash(f"unshare --map-root-user --uts bash -c '{start}'", tmp_path)
    assert done.stdout.count("met") == 2, done.stderr
