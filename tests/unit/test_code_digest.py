"""A digest of code changes with the code of a script and of what it imports, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona import code_digest as module
from persona.code_digest import code_digest


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that imports one module of a library, which imports another within a function."""
    monkeypatch.setattr(module, "SOURCE", tmp_path)
    (tmp_path / "persona" / "tools").mkdir(parents=True)
    for name in ("__init__.py", "tools/__init__.py", "unused.py"):
        (tmp_path / "persona" / name).write_text("")
    (tmp_path / "persona" / "tools" / "outer.py").write_text(
        "def outer():\n    from persona.inner import inner\n    return inner()\n"
    )
    (tmp_path / "persona" / "inner.py").write_text('"""Inner."""\n\n\ndef inner():\n    """One."""\n    return 1\n')
    path = tmp_path / "script.py"
    path.write_text("from persona.tools import outer\n\nprint(outer.outer())\n")
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_comments_docstrings_and_unused_modules_do_not_count(script: Path) -> None:
    digest = code_digest(script)
    inner = script.parent / "persona" / "inner.py"
    edit(inner, '"""One."""', '"""Another docstring."""\n    # and a comment')
    edit(inner, "return 1", "return  1")
    (script.parent / "persona" / "unused.py").write_text("x = 1\n")
    assert code_digest(script) == digest and len(digest) == 16


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("script.py", "print(", "repr("),
        ("persona/tools/outer.py", "return inner()", "return inner() + 1"),
        ("persona/inner.py", "return 1", "return 2"),
        ("persona/tools/__init__.py", "", "x = 1\n"),
    ],
)
def test_code_of_the_script_and_of_all_its_imports_counts(script: Path, file: str, old: str, new: str) -> None:
    digest = code_digest(script)
    edit(script.parent / file, old, new)
    assert code_digest(script) != digest
