"""DMSC as a folder of `ratings.csv` and `movies.csv`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl

from tests.ingesting import ingested


def test_dmsc_v2_dates_are_those_of_china(dmsc_v2: Path) -> None:
    """1474560000 is 2016-09-22 16:00 in UTC and midnight of the 23rd in China."""
    tables = ingested(dmsc_v2, "dmsc_v2")
    assert (tables.interactions.height, tables.rejects.height) == (40, 0)
    first = tables.interactions.filter(pl.col("text").str.starts_with("原著的剧本不是这样的")).row(0, named=True)
    assert (first["day"], first["rating"], first["likes"]) == (date(2016, 9, 23), 5.0, 1)
    assert dict(tables.items.select("item_id", "title").iter_rows())[first["item_id"]] == "釜山行"


def test_a_film_that_is_not_there_and_a_bad_timestamp_are_set_aside(dmsc_v2: Path) -> None:
    with (dmsc_v2 / "ratings.csv").open("a", encoding="utf-8") as file:
        file.write("7,99,5,1474560000,好,0\n8,24,5,soon,好,0\n9,24,5,1474560000,好,many\n")
    with (dmsc_v2 / "movies.csv").open("a", encoding="utf-8") as file:
        file.write("28,only two\n")
    rejects = ingested(dmsc_v2, "dmsc_v2").rejects.select("file", "row", "reason").rows()
    assert rejects == [
        ("movies.csv", 29, "2 columns instead of 3"),
        ("ratings.csv", 41, "movieId is not in movies.csv"),
        ("ratings.csv", 42, "timestamp is not seconds since 1970"),
        ("ratings.csv", 43, "number of likes is not a number"),
    ]
