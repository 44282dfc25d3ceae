"""Writes files atomically, and computes their digests."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL_CARD = "README.md"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; the file there replaces `path` if the block ends without an error, else it is deleted."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    temporary.touch(exist_ok=False)  # with the mode that the umask gives
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def follow_umask(folder: Path) -> None:
    """Give the files of a folder the mode of any new file; safetensors lets nobody but the owner read its files."""
    new = folder / f".{secrets.token_hex(4)}"
    new.touch(exist_ok=False)
    mode = new.stat().st_mode & 0o777
    new.unlink()
    for file in folder.iterdir():
        file.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Flush all files of a folder to the disk, so that they survive a crash of the machine."""
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in UTF-8 atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: object, path: str | Path) -> None:
    """Write JSON with sorted keys atomically."""
    write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n", path)


def file_digest(path: str | Path) -> str:
    """SHA-256 in hexadecimal: of a file, or of the names and bytes of a folder's files.

    Hidden files and folders do not count, and neither does a model card, which only describes it.
    """
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            name = file.relative_to(path)
            # A download leaves a hidden folder with dates, which would make the same model another one.
            if not any(part.startswith(".") for part in name.parts) and name != Path(MODEL_CARD):
                digest.update(f"{name}\0{file_digest(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
