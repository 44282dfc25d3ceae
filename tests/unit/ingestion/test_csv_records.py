"""Damaged CSV files: each row is read as written or rejected, and a broken file ends in a message.

The examples are the same every time; `pytest --hypothesis-profile=thorough` tries others, and more of them.
"""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.errors import PersonaError
from persona.ingestion import sources as raw_sources
from persona.ingestion.dmsc_csv import FORM
from persona.ingestion.ingest import Ingested
from tests.ingesting import ingested

FAKE = "7,A,电影A,2017-01-22,1,受害者,2016-01-02,5,假的,1"

# What tears records apart, and what looks like one.
PIECES = st.sampled_from(
    [*'",\n\r', '""', "\r\n", "\n\n", FAKE, f"\n{FAKE}\n", f'\n{FAKE}"\n', "好", "é", "😀", " ", "\0"]
)

TEXTS = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)


@st.composite
def raw_rows(draw: st.DrawFn) -> list[list[str]]:
    """Valid rows, each its own user, in some of which a field or two hold anything."""
    rows = []
    for n in range(draw(st.integers(1, 6))):
        row = [str(n), "A", "电影A", "2017-01-22", "1", f"用户{n}", "2016-01-02", "5", draw(TEXTS), "3"]
        if draw(st.booleans()):
            row[draw(st.integers(0, 9))] = draw(TEXTS)
        rows.append(row)
    return rows


def rows_of(tables: Ingested) -> list[tuple[Any, ...]]:
    """What was accepted, in the words of the raw file."""
    names = tables.users.explode("profile").select("user_id", name=pl.col("profile").struct.field("value"))
    both = tables.interactions.join(names, on="user_id").join(tables.items.select("item_id", "title"), on="item_id")
    columns = both.select("item_id", "name", pl.col("day").cast(pl.String), "rating", "text", "likes")
    return [
        (film.strip(), name, day, rating, text.strip(), likes)
        for film, name, day, rating, text, likes in columns.rows()
    ]


def read_bytes(data: bytes, data_format: str = "dmsc_csv") -> Ingested:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw"
        path.write_bytes(data)
        return ingested(path, data_format)


def as_number(text: str) -> int | None:
    return int(text.strip()) if text.strip() else None


@given(raw_rows(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_the_csv_module_writes_comes_back_equal_or_is_set_aside(
    rows: list[list[str]], end: str, quoting: Any
) -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator=end, quoting=quoting).writerows([FORM.columns, *rows])
    try:
        tables = read_bytes(file.getvalue().encode())
    except PersonaError as error:
        assert "none of its" in str(error)
        return
    accepted = rows_of(tables)
    written = {
        (row[1].strip(), row[5].strip(), row[6].strip(), row[7].strip(), row[8].strip(), row[9].strip()) for row in rows
    }
    for film, name, day, rating, text, likes in accepted:
        same = [row for row in written if row[:3] == (film, name.strip(), day) and row[4] == text]
        assert any(float(row[3]) == rating and as_number(row[5]) == likes for row in same)
    # Those that were not accepted are in the rejects, to the letter but for line ends.
    aside = "".join(tables.rejects.sort("row")["raw"].to_list()).replace("\n", "").replace("\r", "")
    names = {name.strip() for _, name, *_ in accepted}
    for row in rows:
        if row[5].strip() not in names:
            line = io.StringIO()
            csv.writer(line, lineterminator=end, quoting=quoting).writerow(row)
            assert line.getvalue().replace("\n", "").replace("\r", "") in aside


def test_a_record_with_a_carriage_return_and_a_line_like_a_record_is_one_reject() -> None:
    """Found by the property test above, with more examples."""
    rows = [["0", "A", "电影A", "2017-01-22", "1", "用户0", "2016-01-02", "5", "好", "3"]] * 2
    rows[1] = [f"\n{FAKE}\n", *rows[0][1:5], "用户1", *rows[0][6:8], "\r", "3"]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([FORM.columns, *rows])
    text = file.getvalue().replace('"\r"', "\r")  # as older versions of Python write it
    tables = read_bytes(text.encode())
    assert tables.interactions["text"].to_list() == ["好"]
    assert tables.rejects["reason"].to_list() == ["a carriage return outside quotes"]


def valid_file() -> tuple[bytes, set[tuple[Any, ...]]]:
    """A file with quoted, many-line and plain comments, and its rows."""
    comments = [" 好看", ' 两\n行, "引号"', " 一,二", "。", " 😀 emoji", f" 引文：\n{FAKE}\n完"]
    rows = [
        [
            str(n),
            "A",
            "电影A",
            "2017-01-22",
            str(n),
            f"用户{n}",
            f"2016-01-{1 + n % 28:02}",
            str(1 + n % 5),
            text,
            "3",
        ]
        for n, text in enumerate(comments * 4)
    ]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([FORM.columns, *rows])
    return b"\xef\xbb\xbf" + file.getvalue().encode(), {
        (row[1], row[5], row[6], float(row[7]), row[8].strip(), 3) for row in rows
    }


def test_the_undamaged_file_comes_back_whole() -> None:
    data, rows = valid_file()
    tables = read_bytes(data)
    assert set(rows_of(tables)) == rows and not tables.rejects.height


@given(st.data())
def test_a_flipped_byte_spoils_its_own_record_alone(data: st.DataObject) -> None:
    """Or, if it opens a quote, those that lie in it; what comes of it is never more than one other row a flip."""
    original, rows = valid_file()
    damaged = bytearray(original)
    for offset in (flips := data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=3))):
        damaged[offset] = data.draw(st.integers(0, 255))
    try:
        accepted = rows_of(read_bytes(bytes(damaged)))
    except PersonaError:
        return
    assert len(set(accepted) - rows) <= len(flips)
    assert len(set(accepted) & rows) >= len(rows) - 3 * len(flips)


@given(st.data())
def test_what_was_cut_out_leaves_no_more_than_one_other_row(data: st.DataObject) -> None:
    original, rows = valid_file()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, len(original)))
    try:
        accepted = rows_of(read_bytes(original[:start] + original[end:]))
    except PersonaError:
        return
    assert len(set(accepted) - rows) <= 1


@given(st.permutations(range(10)), st.booleans())
def test_swapped_columns_are_refused(order: list[int], with_header: bool) -> None:
    """Without the header, if a day or a number is in the place of something else. (Texts can be told from no text.)"""
    original, rows = valid_file()
    lines = list(csv.reader(io.StringIO(original.decode("utf-8-sig"))))
    swapped = [[line[n] for n in order] if n_line or with_header else line for n_line, line in enumerate(lines)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(swapped)
    kinds = [{0, 4, 7, 9}, {3, 6}]
    seen = any(n in kind and order[n] not in kind for n in range(10) for kind in kinds)
    try:
        accepted = rows_of(read_bytes(file.getvalue().encode()))
    except PersonaError:
        return
    assert not with_header or order == list(range(10))
    if seen:
        assert not set(accepted) - rows


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "gb18030", "big5hkscs"])
def test_another_encoding_is_a_message(encoding: str) -> None:
    original, _ = valid_file()
    text = original.decode("utf-8-sig")
    with pytest.raises(PersonaError, match=r"not dmsc_csv|none of its|rows were rejected"):
        read_bytes(text.encode(encoding, errors="replace"))


@pytest.mark.parametrize("field", range(10))
def test_a_megabyte_in_one_field_spoils_its_record_alone(field: int) -> None:
    original, rows = valid_file()
    lines = list(csv.reader(io.StringIO(original.decode("utf-8-sig"))))
    lines[3][field] += "x" * 1_000_000
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    tables = read_bytes(file.getvalue().encode())
    assert len(rows & set(rows_of(tables))) == len(rows) - 1
    assert tables.rejects.height == 1


def line(user: bytes, comment: bytes, number: int = 0) -> bytes:
    return b"%d,A,\xe7\x94\xb5\xe5\xbd\xb1,2017-01-22,1,%s,2016-01-02,5,%s,3\n" % (number, user, comment)


@pytest.mark.parametrize(
    ("damaged", "reason", "raw"),
    [
        (line(b"x", b'" open'), "a quote is not closed", '" open,3'),
        (line(b"x", b" \xffbad"), "not UTF-8", " \\xffbad,3"),
        (line(b"x", b" \xff,bad"), "not UTF-8", " \\xff,bad,3"),
        (line(b"x", b" a,b"), "11 columns instead of 10", " a,b,3"),
    ],
)
def test_a_damaged_record_does_not_take_others_with_it(tmp_path: Path, damaged: bytes, reason: str, raw: str) -> None:
    header = ",".join(list(FORM.columns)).encode() + b"\n"
    before = b"".join(line(b"b%d" % n, b' "quoted, twice"'.strip() if n % 2 else b" plain", n) for n in range(20))
    after = b"".join(line(b"a%d" % n, b'"two\nlines ""x"""', n) for n in range(20))
    (tmp_path / "DMSC.csv").write_bytes(b"\xef\xbb\xbf" + header + before + damaged + after)
    tables = ingested(tmp_path / "DMSC.csv")
    assert tables.interactions.height == 40
    assert tables.rejects.select("row", "reason").rows() == [(21, reason)]
    assert tables.rejects["raw"].item().endswith(raw)


def test_records_across_blocks_and_crlf_are_counted_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_sources.RawFile.read, "__defaults__", (100,))
    header = ",".join(list(FORM.columns)).encode() + b"\r\n"
    lines = [line(b"u%d" % n, b'"two\nlines, %s"' % (b"x" * (n * 7)), n) for n in range(50)]
    lines[30] = line(b"", b" nobody", 30)
    (tmp_path / "DMSC.csv").write_bytes(header + b"".join(x[:-1] + b"\r\n" for x in lines) + b"\r\n")
    tables = ingested(tmp_path / "DMSC.csv")
    assert tables.interactions.height == 49
    assert tables.rejects.select("row", "reason").rows() == [(31, "no username")]
