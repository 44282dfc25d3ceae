"""A file of another format is named, and a damaged one ends in rejects or a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.errors import PersonaError
from persona.ingestion.formats import FORMATS
from tests.ingesting import ingested
from tests.unit.ingestion.examples import (
    CONVERSATIONS,
    LINES,
    entry,
    raw_row,
    simple,
    twin,
    write_cornell,
    write_lines,
    write_raw,
    write_twins,
)
from tests.unit.ingestion.test_csv_records import read_bytes


def test_a_wrong_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "DMSC.csv").write_text("userId,movieId\n1,2\n", encoding="utf-8")
    with pytest.raises(
        PersonaError, match=r"not dmsc_csv, which is a CSV with the columns ID,.*; it begins with b'userId,movieId"
    ):
        ingested(tmp_path / "DMSC.csv")


def test_a_wrong_format_is_named_with_the_right_one(tmp_path: Path, dmsc_v2: Path) -> None:
    paths = {
        "dmsc_csv": write_raw(tmp_path / "DMSC.csv", [raw_row()]),
        "dmsc_v2": dmsc_v2,
        "twin_json": write_twins(tmp_path / "t.json", [twin({"name": "A"}, [entry("一")])]),
        "cornell": write_cornell(tmp_path / "c", LINES, CONVERSATIONS),
        "jsonl": write_lines(tmp_path / "d.jsonl", [simple()]),
    }
    assert set(paths) == set(FORMATS)
    for right, path in paths.items():
        assert ingested(path, right).interactions.height
        for wrong in set(paths) - {right}:
            with pytest.raises(
                PersonaError, match=f"not {wrong}, which is .*; it looks like {right}: set the data set's"
            ):
                ingested(path, wrong)


@given(st.data())
def test_damaged_files_of_other_formats_end_in_rejects_or_a_message(data: st.DataObject) -> None:
    twins = json.dumps([twin({"name": f"n{n}"}, [entry(f"t{n}"), entry("b", film="B")]) for n in range(4)]).encode()
    lines = b"".join(json.dumps(simple(user=n, text=f"t{n}")).encode() + b"\n" for n in range(6))
    data_format, original = data.draw(st.sampled_from([("twin_json", twins), ("jsonl", lines)]))
    damaged = bytearray(original)
    for offset in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[offset] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    try:
        read_bytes(bytes(damaged[:cut] if data.draw(st.booleans()) else damaged), data_format)
    except PersonaError as error:
        assert "\n" not in str(error)
