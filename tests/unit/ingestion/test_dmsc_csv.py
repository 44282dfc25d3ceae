"""The Kaggle CSV of DMSC: real rows, and the reason of each row that cannot be used."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.ingesting import ingested
from tests.unit.ingestion.examples import raw_row, write_raw


def test_real_rows_are_kept_whole(real_rows: Path) -> None:
    tables = ingested(real_rows)
    assert (tables.interactions.height, tables.users.height, tables.items.height) == (13, 13, 2)
    assert not tables.rejects.height
    first = tables.interactions.filter(pl.col("text") == "连奥创都知道整容要去韩国。").row(0, named=True)
    assert (first["rating"], str(first["day"]), first["likes"]) == (3.0, "2015-05-13", 2404)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (raw_row(user="NA"), "no username"),
        (raw_row(user=" "), "no username"),
        (raw_row(comment="  "), "blank text"),
        (raw_row(star="6"), "star is not 1 to 5"),
        (raw_row(star="?"), "star is not 1 to 5"),
        (raw_row(day="2016-13-01"), "date is not YYYY-MM-DD"),
        (raw_row(day="2016-1-2"), "date is not YYYY-MM-DD"),
        (raw_row(film=""), "no film"),
        (raw_row()[:9], "9 columns instead of 10"),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside_with_its_reason(tmp_path: Path, row: list[str], reason: str) -> None:
    path = write_raw(tmp_path / "DMSC.csv", [raw_row(comment=' 两\n行, "引号"'), row, raw_row(user="乙", comment="。")])
    tables = ingested(path)
    assert tables.rejects.select("file", "row", "reason").rows() == [("DMSC.csv", 2, reason)]
    assert tables.rejects["raw"][0].split(",")[:6] == row[:6]
    assert set(tables.interactions["text"]) == {"。", '两\n行, "引号"'}


def test_the_first_review_of_a_film_is_kept_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = [raw_row(comment=f" {n}", day=f"2016-01-0{n}") for n in (3, 1, 2)]
    for order in (rows, rows[::-1]):
        tables = ingested(write_raw(tmp_path / "DMSC.csv", order))
        assert tables.interactions["text"].to_list() == ["1"]
        assert tables.rejects["reason"].to_list() == ["another review of this film by this user"] * 2
