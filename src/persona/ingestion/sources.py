"""Opens raw files: plain or packed with gzip, zstd or zip, a single file or one of a folder."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from persona.errors import PersonaError

GZIP, ZIP, ZSTD = b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"
SUFFIXES = ("", ".gz", ".zst", ".zip")
BLOCK = 16 << 20
BOM = b"\xef\xbb\xbf"
# zipfile raises RuntimeError for an encrypted member and NotImplementedError for a compression it does not know.
DAMAGED = (EOFError, OSError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile, pa.ArrowException)


class RawFile:
    """The unpacked bytes of a raw file, without a byte order mark."""

    def __init__(self, stream: Any, name: str) -> None:
        self.stream, self.name, self.at_start = stream, name, True

    def read(self, size: int = BLOCK) -> bytes:
        """Read the next bytes; none at the end of the file.

        Raises:
            PersonaError: the file cannot be unpacked.
        """
        try:
            block = bytes(self.stream.read(size))
        except DAMAGED as error:
            raise PersonaError(f"{self.name}: cannot be unpacked ({error}); is the file complete?") from error
        if self.at_start:
            self.at_start, block = False, block.removeprefix(BOM)
        return block

    def lines(self) -> Iterator[bytes]:
        """Read the lines without their ends. A line ends with LF or CRLF, never with CR alone."""
        carried = b""
        while block := self.read():
            *whole, carried = (carried + block).split(b"\n")
            yield from (line.removesuffix(b"\r") for line in whole)
        if carried:
            yield carried.removesuffix(b"\r")


def raw_files(path: Path, names: tuple[str, ...]) -> list[Path]:
    """The files that a data set is read from: `path` itself, or the files `names` in a folder, packed or not."""
    if not names or not path.is_dir():
        return [path]
    candidates = [path / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
    return [file for file in candidates if file.is_file()]


@contextmanager
def open_raw(path: Path, name: str | None = None) -> Iterator[RawFile]:
    """Open a raw file.

    Args:
        path: the file, or a folder or zip archive that holds it.
        name: the name of the file in the folder or archive; None if `path` is the file.

    Raises:
        PersonaError: there is no such file, or it cannot be unpacked.
    """
    file = _locate(path, name)
    with file.open("rb") as raw:
        magic = raw.read(4)
    with ExitStack() as stack:
        try:
            if magic == ZIP:
                archive = stack.enter_context(zipfile.ZipFile(file))
                stream: Any = stack.enter_context(archive.open(_member(archive, file, name)))
            elif magic == ZSTD:
                stream = stack.enter_context(pa.input_stream(file, compression="zstd"))
            elif magic[:2] == GZIP:
                stream = stack.enter_context(gzip.open(file))
            else:
                stream = stack.enter_context(file.open("rb"))
        except DAMAGED as error:
            raise PersonaError(f"{file}: cannot be unpacked ({error}); is the file complete?") from error
        yield RawFile(stream, str(file) if name is None else name)


def _locate(path: Path, name: str | None) -> Path:
    if not path.exists():
        raise PersonaError(f"{path}: no such file; set the data set's `path` to the raw data")
    if path.is_dir():
        files = raw_files(path, (name,)) if name else []
        if not files:
            problem = f"this folder holds no {name}; add it" if name else "this is a folder; name the file in it"
            raise PersonaError(f"{path}: {problem}")
        return files[0]
    return path


def _member(archive: zipfile.ZipFile, file: Path, name: str | None) -> str:
    members = [m for m in archive.namelist() if not m.endswith("/") and not m.startswith("__MACOSX/")]
    chosen = [m for m in members if name is None or m.rsplit("/", 1)[-1] == name]
    if len(chosen) != 1:
        wanted = name or "file"
        raise PersonaError(
            f"{file}: this archive must hold exactly one {wanted}, not {len(chosen)}; it holds {', '.join(members[:5])}"
        )
    return chosen[0]
