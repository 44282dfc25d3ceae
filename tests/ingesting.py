"""A raw file through ingestion, as the workflow does it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from persona.ingestion.ingest import Ingested, ingest, load
from persona.ingestion.settings import Options


def ingested(path: Path, data_format: str = "dmsc_csv", max_reject_share: float = 1.0, **options: Any) -> Ingested:
    with tempfile.TemporaryDirectory() as folder:
        ingest(path, data_format, Path(folder), Options(**options), max_reject_share)
        return load(Path(folder))
