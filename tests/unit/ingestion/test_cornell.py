"""The Cornell Movie-Dialogs corpus: real films, and small corpora with its quirks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.errors import PersonaError
from persona.ingestion.cornell import SEPARATOR
from persona.ingestion.ingest import Ingested
from tests.ingesting import ingested
from tests.unit.ingestion.examples import CONVERSATIONS, LINES, profile_of, row_of, write_cornell


def test_a_line_has_the_lines_before_it_as_its_context(chameleon_tables: Ingested) -> None:
    tables = chameleon_tables
    assert (tables.interactions.height, tables.users.height, tables.items.height) == (19_766, 628, 40)
    assert tables.rejects["reason"].to_list() == ["blank text"] * 2
    row = row_of(tables, "Not the hacking and gagging and spitting part.  Please.")
    assert [turn["speaker"] for turn in row["context"]] == ["BIANCA", "CAMERON"]
    assert row["context"][1]["text"] == "Well, I thought we'd start with pronunciation, if that's okay with you."
    assert profile_of(tables, row["user_id"]) == {
        "name": "BIANCA",
        "movie": "10 things i hate about you",
        "genre": "comedy/romance",
        "year": "1999",
        "gender": "female",
        "credit": "4",
    }
    assert not tables.interactions["text"].str.contains("<u>").any()
    assert tables.interactions["context"].list.len().max() <= 15  # type: ignore[operator]


def test_what_lies_in_the_past_are_lines_of_earlier_conversations(chameleons: Path, chameleon_tables: Ingested) -> None:
    """Counted in the raw file: lines of the character whose conversation begins at a smaller line id."""
    lines = {}
    for line in (chameleons / "movie_lines.txt").read_bytes().decode("utf-8").split("\n")[:-1]:
        key, character, _, _, text = f"{line} ".split(SEPARATOR, 4)
        lines[key] = (character, text.strip())
    past: dict[tuple[str, str], int] = {}
    conversations = []
    for line in (chameleons / "movie_conversations.txt").read_text().splitlines():
        keys = [part.strip("' ") for part in line.split(SEPARATOR)[3].strip("[]").split(",")]
        conversations.append(keys)
    spoken: dict[str, int] = {}
    for keys in sorted(conversations, key=lambda keys: min(int(key[1:]) for key in keys)):
        for key in keys:
            past[lines[key][0], key] = spoken.get(lines[key][0], 0)
        for key in keys:
            spoken[lines[key][0]] = spoken.get(lines[key][0], 0) + bool(lines[key][1])
    before = chameleon_tables.interactions.with_columns(n=pl.col("position").min().over("user_id", "session"))
    found = sorted(before["n"].to_list())
    assert found == sorted(count for (_, key), count in past.items() if lines[key][1])


def test_names_can_be_masked(chameleons: Path, chameleon_tables: Ingested) -> None:
    tables = ingested(chameleons, "cornell", mask_names=True)
    plain = chameleon_tables
    cameron = "Cameron"
    film = plain.items.filter(pl.col("title") == "10 things i hate about you")["item_id"].item()
    of_film = pl.col("item_id") == film
    assert plain.interactions.filter(of_film)["text"].str.contains(cameron).any()
    masked = tables.interactions.filter(of_film)
    assert not masked["text"].str.contains(cameron).any() and masked["text"].str.contains("NAME").any()
    context = tables.interactions.filter(of_film)["context"].explode().drop_nulls()
    assert set(context.struct.field("speaker")) == {"SELF", "OTHER"}
    assert not context.struct.field("text").str.contains(cameron).any()
    names = tables.users["profile"].explode().struct.field("field")
    assert "name" not in set(names) and "movie" in set(names)


def test_a_name_within_a_contraction_is_no_name(tmp_path: Path) -> None:
    lines = ["L1|u0|m0|DON|Don't. Don's here. Don!", "L2|u1|m0|MA|Yes, Ma'am."]
    tables = ingested(write_cornell(tmp_path / "c", lines, ["u0|u1|m0|['L1', 'L2']"]), "cornell", mask_names=True)
    assert sorted(tables.interactions["text"]) == ["Don't. NAME's here. NAME!", "Yes, Ma'am."]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quirks_of_the_corpus(tmp_path: Path, end: str) -> None:
    """Two turns in a row, ISO-8859-1, two characters of one name, an empty line, a year with a numeral, CRLF."""
    tables = ingested(write_cornell(tmp_path / "c", LINES, CONVERSATIONS, end), "cornell")
    rows = tables.interactions.filter(pl.col("user_id") == row_of(tables, "One.")["user_id"]).sort("position")
    assert rows["text"].to_list() == ["One.", "Two.", "Café?"] and rows["session"].to_list() == [0, 0, 0]
    assert [turn["text"] for turn in rows["context"][2]] == ["One.", "Two."]
    assert tables.users.height == 2  # of the third nothing but an empty line is known
    assert profile_of(tables, rows["user_id"][0])["year"] == "1995"
    assert "credit" not in profile_of(tables, rows["user_id"][0])
    assert tables.rejects.select("row", "reason").rows() == [(4, "blank text")]


def test_damaged_records_of_the_corpus_are_set_aside(tmp_path: Path) -> None:
    lines = [*LINES, "L10|u0|m0", "L1|u0|m0|VINCENT|Again.", "L11|u0|m7|VINCENT|Where?", "L12|u0|m0|VINCENT|Alone."]
    folder = write_cornell(tmp_path / "c", lines, [*CONVERSATIONS, "u0|u1|m0|['L77']", "u0|u1"])
    tables = ingested(folder, "cornell")
    assert tables.rejects.select("file", "row", "reason").rows() == [
        ("movie_conversations.txt", 3, "lines that are not there: L77"),
        ("movie_conversations.txt", 4, "2 fields instead of 4"),
        ("movie_lines.txt", 4, "blank text"),
        ("movie_lines.txt", 6, "3 fields instead of 5"),
        ("movie_lines.txt", 7, "another line of this id"),
        ("movie_lines.txt", 8, "film is not in movie_titles_metadata.txt"),
        ("movie_lines.txt", 9, "in no conversation"),
    ]


def test_conversations_that_overlap_do_not_know_each_other(tmp_path: Path) -> None:
    lines = [f"L{n}|u0|m0|VINCENT|{n}." for n in range(1, 7)]
    conversations = [
        "u0|u1|m0|['L1', 'L4']",
        "u0|u1|m0|['L2', 'L3']",
        "u0|u1|m0|['L5']",
        "u0|u1|m0|['L6']",
    ]
    tables = ingested(write_cornell(tmp_path / "c", lines, conversations), "cornell")
    sessions = dict(tables.interactions.select("text", "session").iter_rows())
    assert sessions == {"1.": 0, "2.": 0, "3.": 0, "4.": 0, "5.": 1, "6.": 2}


@given(st.data())
def test_a_damaged_corpus_ends_in_rejects_or_a_message(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_cornell(Path(temporary) / "c", LINES, CONVERSATIONS)
        file = folder / data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
        damaged = bytearray(file.read_bytes())
        for offset in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
            damaged[offset] = data.draw(st.integers(0, 255))
        file.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
        try:
            ingested(folder, "cornell")
        except PersonaError as error:
            assert "\n" not in str(error)
