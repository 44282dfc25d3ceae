"""Rows become tables: one row per key, sessions and positions in the order of time."""

from __future__ import annotations

from pathlib import Path

from persona.ingestion.ingest import Ingested
from tests.ingesting import ingested
from tests.unit.ingestion.examples import raw_row, write_raw


def test_the_kept_duplicate_and_the_title_do_not_depend_on_row_order(tmp_path: Path) -> None:
    rows = [raw_row(), raw_row()]
    rows[0][2], rows[1][2] = "甲", "乙"
    kept = [ingested(write_raw(tmp_path / "DMSC.csv", order)).items["title"].item() for order in (rows, rows[::-1])]
    assert kept[0] == kept[1]


def test_rows_of_a_day_share_a_session(tables: Ingested) -> None:
    """Sessions count a user's days, in their order."""
    for (_,), rows in tables.interactions.group_by("user_id"):
        days = sorted(set(rows["day"]))
        assert [days.index(day) for day in rows["day"]] == rows["session"].to_list()
        assert sorted(rows["position"]) == list(range(rows.height))
