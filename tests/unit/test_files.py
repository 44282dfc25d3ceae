"""Files are written whole or not at all, and digests depend on their bytes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from persona.files import atomic_path, file_digest, follow_umask, write_json, write_text


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, umask: int, mode: int) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights").touch(0o600)
    before = os.umask(umask)
    try:
        write_text("a", tmp_path / "a.txt")
        follow_umask(tmp_path / "folder")
    finally:
        os.umask(before)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["weights"]
    for file in (tmp_path / "a.txt", tmp_path / "folder" / "weights"):
        assert file.stat().st_mode & 0o777 == mode


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text("old", path)
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_json_has_sorted_keys_and_readable_text(tmp_path: Path) -> None:
    write_json({"b": 1, "a": "好"}, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "a": "好",\n  "b": 1\n}\n' and json.loads(text) == {"a": "好", "b": 1}


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_the_digest_of_a_folder_depends_on_names_and_bytes_but_not_on_hidden_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a").write_bytes(b"abc")
    (tmp_path / "two" / ".hidden").write_bytes(b"x")
    (tmp_path / "two" / ".cache").mkdir()
    (tmp_path / "two" / ".cache" / "a.metadata").write_bytes(b"x")
    digest = file_digest(tmp_path / "one")
    assert file_digest(tmp_path / "two") == digest
    (tmp_path / "two" / "sub" / "a").rename(tmp_path / "two" / "sub" / "b")
    assert file_digest(tmp_path / "two") != digest
    (tmp_path / "one" / "sub" / "a").write_bytes(b"abd")
    assert file_digest(tmp_path / "one") != digest
