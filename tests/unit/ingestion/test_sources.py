"""Packed files and folders are read as plain files."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from persona.errors import PersonaError
from persona.ingestion.formats import FILES
from tests.ingesting import ingested
from tests.unit.ingestion.examples import CONVERSATIONS, LINES, write_cornell


@pytest.mark.parametrize("how", ["gzip", "zip", "zstd"])
def test_packed_files_read_as_unpacked_ones(tmp_path: Path, how: str, raw_csv: Path) -> None:
    packed = tmp_path / "DMSC.csv"  # what it is is seen from its bytes, not from its name
    if how == "gzip":
        packed.write_bytes(gzip.compress(raw_csv.read_bytes()))
    elif how == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(raw_csv, "some folder/DMSC.csv")
    else:
        with pa.CompressedOutputStream(str(packed), "zstd") as stream:
            stream.write(raw_csv.read_bytes())
    assert ingested(packed).interactions.equals(ingested(raw_csv).interactions)
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    with pytest.raises(PersonaError, match="cannot be unpacked"):
        ingested(packed)


def test_a_folder_may_be_an_archive_or_hold_packed_files(tmp_path: Path) -> None:
    folder = write_cornell(tmp_path / "c", LINES, CONVERSATIONS)
    plain = ingested(folder, "cornell")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for name in FILES:
            archive.write(folder / name, f"cornell/{name}")
    assert ingested(tmp_path / "c.zip", "cornell").interactions.equals(plain.interactions)
    lines = folder / FILES[0]
    (folder / f"{FILES[0]}.gz").write_bytes(gzip.compress(lines.read_bytes()))
    lines.unlink()
    assert ingested(folder, "cornell").interactions.equals(plain.interactions)
