"""Ingestion as a whole: the limit of rejects, names, and what a killed run left."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona.errors import PersonaError
from persona.ingestion.ingest import ingest
from persona.ingestion.settings import Options
from persona.tables import schemas
from persona.tables.parquet import read_table
from tests.ingesting import ingested
from tests.unit.ingestion.examples import (
    CONVERSATIONS,
    LINES,
    entry,
    raw_row,
    twin,
    write_cornell,
    write_raw,
    write_twins,
)


def test_too_many_rejects_stop_the_run_with_the_commonest_reasons(tmp_path: Path) -> None:
    bad = [raw_row(star="9")] * 3 + [raw_row(user="")] * 2 + [raw_row(comment="")] * 2 + [raw_row(day="?")]
    path = write_raw(tmp_path / "DMSC.csv", [raw_row(), *bad])
    commonest = r"star is not 1 to 5 \(3\), blank text \(2\), no username \(2\); all are in"
    with pytest.raises(
        PersonaError, match=f"8 of 9 rows were rejected, more than max_reject_share 0.8 allows: {commonest}"
    ):
        ingest(path, "dmsc_csv", tmp_path / "out", Options(), 0.8)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"too_many_rejects.parquet"}
    aside = read_table(tmp_path / "out" / "too_many_rejects.parquet", schemas.REJECTS)
    assert aside.height == 8
    ingest(path, "dmsc_csv", tmp_path / "out", Options(), 0.9)
    assert "too_many_rejects.parquet" not in {file.name for file in (tmp_path / "out").iterdir()}


def test_pseudonyms_are_all_that_is_left_of_names(tmp_path: Path) -> None:
    twins = [
        twin(
            {"Name": "Zelda", "city": "Oslo"},
            [entry("ok", context=[{"source": "Zelda", "content": "a"}, {"source": "Quentin", "content": "b"}])],
            kind="dialogue",
        )
    ]
    tables = ingested(write_twins(tmp_path / "t.json", twins), "twin_json", pseudonymise=True)
    assert tables.users["profile"][0].to_list() == [{"field": "city", "value": "Oslo"}]
    speakers = [turn["speaker"] for turn in tables.interactions["context"][0]]
    assert speakers == ["SELF", "OTHER"]
    dmsc = write_raw(tmp_path / "DMSC.csv", [raw_row(user="Zelda")])
    assert ingested(dmsc, pseudonymise=True).users["profile"].list.len().to_list() == [0]
    corpus = ingested(write_cornell(tmp_path / "c", LINES, CONVERSATIONS), "cornell", pseudonymise=True)
    assert "VINCENT" not in str(corpus.users.to_dicts()) + str(corpus.interactions.to_dicts())


def test_what_a_killed_ingestion_left_is_taken_away(raw_csv: Path, tmp_path: Path) -> None:
    (tmp_path / ".ingest-old").mkdir()
    (tmp_path / ".ingest-old" / "3.arrow").write_bytes(b"half")
    ingest(raw_csv, "dmsc_csv", tmp_path, Options(), 1.0)
    assert {file.suffix for file in tmp_path.iterdir()} == {".parquet"}
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
