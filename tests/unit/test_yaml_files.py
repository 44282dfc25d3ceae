"""YAML whose values would be lost or changed is refused with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona.errors import PersonaError
from persona.yaml_files import read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 2}\na: 3\n", "line 3: key 'a' is already in line 1; keep one of them"),
        ("a:\n  b: {c: 2, c: 3}\n", "line 2: key 'c' is already in line 2; keep one of them"),
        ("- {a: 1}\n- seed: 010\n", "line 2: YAML reads 010 as a number in base 8; write it without"),
        ("a: 1:30\n", "line 1: YAML reads 1:30 as a number in base 60; write it without"),
        ("a: 1:30.5\n", "line 1: YAML reads 1:30.5 as a number in base 60; write it without"),
        ("a: [1\n", "not YAML in UTF-8: while parsing"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(PersonaError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_what_is_read_as_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("base: &b {x: 1, y: 0}\nmore: {<<: *b, x: 2}\nzip: '010'\ntime: '1:30'\nn: [0, 10, -1, 1.0e-5]\n")
    assert read_yaml(path) == {
        "base": {"x": 1, "y": 0}, "more": {"x": 2, "y": 0}, "zip": "010", "time": "1:30", "n": [0, 10, -1, 1e-5]
    }  # fmt: skip


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"none\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")
