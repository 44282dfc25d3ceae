"""Each raw format, on real slices and on small files written for the purpose."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from persona.errors import PersonaError
from persona.ingestion.cornell import SEPARATOR
from persona.ingestion.formats import FILES, FORMATS
from persona.ingestion.ingest import ingest
from persona.ingestion.rows import MAX_CHARACTERS
from persona.ingestion.settings import Options
from persona.tables import schemas
from persona.tables.parquet import read_table
from tests.conftest import REAL_DATA
from tests.ingesting import ingested
from tests.unit.test_data import raw_row, write_raw


@pytest.fixture(scope="session")
def chameleons() -> Path:
    path = REAL_DATA / "chameleons"
    if not path.exists():
        pytest.skip("the real slice chameleons/ is not beside this repository")
    return path


def real_dmsc(name: str) -> Path:
    path = REAL_DATA / "dmsc" / name
    if not path.exists():
        pytest.skip(f"the real slice {name} is not beside this repository")
    return path


def row_of(tables: Any, text: str) -> dict[str, Any]:
    return tables.interactions.filter(pl.col("text") == text).row(0, named=True)


def profile_of(tables: Any, user: str) -> dict[str, str]:
    fields = tables.users.filter(pl.col("user_id") == user)["profile"][0]
    return {field["field"]: field["value"] for field in fields}


# dmsc_v2


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


# twin_json


def twin(user: dict[str, Any], data: list[Any], kind: str = "movie_review", **more: Any) -> dict[str, Any]:
    collections = [{"type": kind, "type_desc": "数据", "data": data}]
    return {"user": {"profile": user}, "task": {"description": "", "task_behavior_collections": collections}} | more


def entry(text: Any, film: str = "钢铁侠1", day: str | None = "2016-01-02", context: Any = ()) -> dict[str, Any]:
    prefix = f"{film}: "
    return {"context": list(context), "continuation": text, "continuation_prefix": prefix, "timestamp": day}


def write_twins(path: Path, twins: Any) -> Path:
    path.write_text(json.dumps(twins, ensure_ascii=False), encoding="utf-8")
    return path


def test_the_real_user_comes_back_whole_and_in_order() -> None:
    path = real_dmsc("twin_json_one_user.json")
    written = json.loads(path.read_text(encoding="utf-8"))[0]["task"]["task_behavior_collections"][0]["data"]
    tables = ingested(path, "twin_json")
    assert not tables.rejects.height
    ordered = tables.interactions.sort("position")
    assert ordered["text"].to_list() == [e["continuation"].strip() for e in written]
    assert [str(day) for day in ordered["day"]] == [e["timestamp"] for e in written]
    assert ordered["item_id"].to_list() == [e["continuation_prefix"].removesuffix(": ") for e in written]
    assert profile_of(tables, ordered["user_id"][0]) == {"name": "Y"}


@pytest.mark.parametrize("as_list", [True, False])
def test_objects_of_one_user_hash_are_one_user(tmp_path: Path, as_list: bool) -> None:
    twins = [
        twin({"name": "甲"}, [entry("一", "A")], user_hash="x"),
        twin({"name": "乙"}, [entry("二", "A")], user_hash="y"),
        twin({"name": "甲"}, [entry("三", "B"), entry("一", "A")], user_hash="x"),
    ]
    path = tmp_path / "twins.json"
    if as_list:
        write_twins(path, twins)
    else:
        path.write_text("\n".join(json.dumps(t) for t in twins), encoding="utf-8")
    tables = ingested(path, "twin_json")
    assert tables.users.height == 2
    assert sorted(tables.interactions["text"]) == ["一", "三", "二"]
    assert tables.rejects.select("row", "reason").rows() == [(4, "the same record again")]


def test_without_timestamps_the_order_in_the_file_is_that_in_time(tmp_path: Path) -> None:
    said = [entry("No.", day=None), entry("Why?", day=None), entry("No.", day=None)]
    path = write_twins(tmp_path / "t.json", twin({"name": "A", "movie": "Heat"}, said, kind="dialogue"))
    tables = ingested(path, "twin_json")
    rows = tables.interactions.sort("position")
    assert rows["text"].to_list() == ["No.", "Why?", "No."] and rows["session"].to_list() == [0, 1, 2]
    assert set(rows["item_id"]) == {"Heat"} and rows["day"].null_count() == 3


def test_only_the_last_turns_of_a_context_are_kept(tmp_path: Path) -> None:
    turns = [{"source": "B", "content": f"line {n}"} for n in range(20)]
    path = write_twins(tmp_path / "t.json", [twin({"name": "A"}, [entry("ok", context=turns)], kind="dialogue")])
    context = ingested(path, "twin_json", max_context_turns=3).interactions["context"][0].to_list()
    assert context == [{"speaker": "B", "text": f"line {n}"} for n in (17, 18, 19)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("text", "not an object"),
        (entry(None), "continuation is not text"),
        (entry("  "), "blank text"),
        (entry("x" * (MAX_CHARACTERS + 1)), f"text of more than {MAX_CHARACTERS:,} characters"),
        (entry("a", film=""), "no film in continuation_prefix"),
        (entry("a", day="2016-13-01"), "timestamp is not YYYY-MM-DD"),
        (entry("a", day=None), "no timestamp, and other rows of this user have one"),
        (entry("a", context=["b"]), "context is not a list of {source, content}"),
    ],
)
def test_an_entry_that_cannot_be_used_is_set_aside(tmp_path: Path, bad: Any, reason: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps([twin({"name": "A"}, [entry("一", "A"), bad, entry("二", "B")])]))
    tables = ingested(path, "twin_json")
    assert sorted(tables.interactions["text"]) == ["一", "二"]
    assert tables.rejects.select("row", "reason").rows() == [(2, reason)]


def test_an_object_of_no_form_and_broken_json(tmp_path: Path) -> None:
    path = write_twins(tmp_path / "t.json", [{"name": "no task"}, twin({"name": "A"}, [entry("一")])])
    tables = ingested(path, "twin_json")
    assert (tables.interactions.height, tables.rejects["row"].to_list()) == (1, [1])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PersonaError, match=r"t\.json: not JSON: "):
        ingested(path, "twin_json")


# cornell


def test_a_line_has_the_lines_before_it_as_its_context(chameleons: Path) -> None:
    tables = ingested(chameleons, "cornell")
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


def test_what_lies_in_the_past_are_lines_of_earlier_conversations(chameleons: Path) -> None:
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
    tables = ingested(chameleons, "cornell")
    before = tables.interactions.with_columns(n=pl.col("position").min().over("user_id", "session"))
    found = sorted(before["n"].to_list())
    assert found == sorted(count for (_, key), count in past.items() if lines[key][1])


def test_names_can_be_masked(chameleons: Path) -> None:
    tables = ingested(chameleons, "cornell", mask_names=True)
    plain = ingested(chameleons, "cornell")
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


def write_cornell(folder: Path, lines: list[str], conversations: list[str], end: str = "\n") -> Path:
    folder.mkdir()
    files = {
        "movie_titles_metadata.txt": ["m0|heat|1995/I|8|9|['crime', 'drama']", "m1|up|2009|8|9|[]"],
        "movie_characters_metadata.txt": ["u0|VINCENT|m0|heat|M|1000", "u1|MAN|m0|heat|?|?", "u2|MAN|m0|heat|f|3"],
        "movie_lines.txt": lines,
        "movie_conversations.txt": conversations,
    }
    for name, rows in files.items():
        text = end.join(row.replace("|", SEPARATOR) for row in rows) + end
        (folder / name).write_bytes(text.encode("latin-1"))
    return folder


LINES = [
    "L3|u0|m0|VINCENT|Caf\xe9?",
    "L1|u0|m0|VINCENT|One.",
    "L2|u0|m0|VINCENT|<b>Two</b>.",
    "L9|u1|m0|MAN|",
    "L8|u2|m0|MAN|Eight.",
]
CONVERSATIONS = ["u0|u2|m0|['L8', 'L9']", "u0|u1|m0|['L1', 'L2', 'L3']"]


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


# jsonl


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def simple(**values: Any) -> dict[str, Any]:
    return {"user": "u", "item": "i", "text": "好", "day": "2020-01-02"} | values


def test_all_keys_of_jsonl(tmp_path: Path) -> None:
    row = simple(
        title="T",
        genres=["x", "y"],
        rating=4,
        likes=7,
        profile={"city": "Oslo", "age": 30},
        context=[{"speaker": "A", "text": "?"}],
    )
    tables = ingested(write_lines(tmp_path / "d.jsonl", [row, "", simple(user=17, day="2020-01-03T10:00:00")]), "jsonl")
    kept = tables.interactions.filter(pl.col("rating") == 4).row(0, named=True)
    assert (kept["day"], kept["likes"]) == (date(2020, 1, 2), 7)
    assert kept["context"] == [{"speaker": "A", "text": "?"}]
    assert tables.users.height == 2 and profile_of(tables, kept["user_id"]) == {"city": "Oslo", "age": "30"}


def test_order_tells_the_time_where_days_do_not(tmp_path: Path) -> None:
    rows = [simple(text=str(n), order=n // 2, day=None) for n in (3, 0, 2, 1)]
    found = ingested(write_lines(tmp_path / "d.jsonl", rows), "jsonl").interactions
    assert dict(found.select("text", "session").iter_rows()) == {"0": 0, "1": 0, "2": 1, "3": 1}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not JSON in UTF-8"),
        ("[1]", "not an object"),
        (simple(stars=5), 'unknown key "stars"'),
        ({"user": "u", "item": "i"}, "no text"),
        (simple(text=5), "text is not text"),
        (simple(text="half a character \ud83d"), "text is not Unicode"),
        (simple(user=""), "user is empty"),
        (simple(day="02.01.2020"), "day is not YYYY-MM-DD"),
        (simple(day=None), "neither day nor order"),
        (simple(order=3), "order, which the first row does not have"),
        (simple(rating=6), "rating is not 1 to 5"),
        (simple(likes=-1), "likes is not a whole number"),
        (simple(genres="x"), "genres is not a list"),
        (simple(context=[{"speaker": "A"}]), "context.text is not text"),
        (simple(), "the same record again"),
    ],
)
def test_a_line_that_cannot_be_used_is_set_aside(tmp_path: Path, bad: Any, reason: str) -> None:
    tables = ingested(write_lines(tmp_path / "d.jsonl", [simple(), bad, simple(text="二")]), "jsonl")
    assert sorted(tables.interactions["text"]) == ["二", "好"]
    assert [r.split(":")[0] for r in tables.rejects["reason"]] == [reason]


# All of them


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


def test_too_many_rejects_stop_the_run_with_the_commonest_reasons(tmp_path: Path) -> None:
    bad = [raw_row(star="9")] * 3 + [raw_row(user="")] * 2 + [raw_row(comment="")] * 2 + [raw_row(day="?")]
    path = write_raw(tmp_path / "DMSC.csv", [raw_row(), *bad])
    commonest = "3 times star is not 1 to 5, 2 times blank text, 2 times no username; they are in"
    with pytest.raises(PersonaError, match=f"8 of 9 rows cannot be used, more than max_reject_share 0.8: {commonest}"):
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
