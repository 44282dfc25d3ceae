"""Data of more than one module of tests."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from persona.ingestion.ingest import Ingested
from tests.conftest import REAL_DATA
from tests.ingesting import ingested
from tests.unit.ingestion.examples import real_dmsc


@pytest.fixture(scope="session")
def chameleons() -> Path:
    path = REAL_DATA / "chameleons"
    if not path.exists():
        pytest.skip("the real slice chameleons/ is not beside this repository")
    return path


@pytest.fixture(scope="session")
def chameleon_tables(chameleons: Path) -> Ingested:
    return ingested(chameleons, "cornell")


@pytest.fixture
def dmsc_v2(tmp_path: Path) -> Path:
    """The real rows without the row index that a notebook put before them."""
    with real_dmsc("dmsc_v2_ratings_40rows_pandas_truncated.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [row[1:] for row in csv.reader(file)]
    folder = tmp_path / "v2"
    folder.mkdir()
    with (folder / "ratings.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    shutil.copy(real_dmsc("dmsc_v2_movies.csv"), folder / "movies.csv")
    return folder
