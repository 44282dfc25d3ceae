"""Raw file -> interactions -> split -> samples."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import polars as pl
import pytest

from persona.errors import PersonaError
from persona.ingestion import sources as raw_sources
from persona.ingestion.dmsc_csv import FORM
from persona.ingestion.ingest import Ingested, ingest
from persona.ingestion.settings import Options
from persona.ingestion.synthetic import write_dmsc_csv
from persona.sampling import sample_targets
from persona.splitting import split_users
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from tests.ingesting import ingested


def write_raw(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([list(FORM.columns), *rows])
    return path


def raw_row(
    user: str = "甲", comment: str = " 好看", star: str = "5", day: str = "2016-01-02", film: str = "A"
) -> list[str]:
    return ["0", film, f"电影{film}", "2017-01-22", "1", user, day, star, comment, "3"]


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


def test_a_wrong_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "DMSC.csv").write_text("userId,movieId\n1,2\n", encoding="utf-8")
    with pytest.raises(
        PersonaError, match=r"not dmsc_csv, which is a CSV with the columns ID,.*; it begins with b'userId,movieId"
    ):
        ingested(tmp_path / "DMSC.csv")


def test_the_synthetic_release_has_the_quirks_and_is_reproducible(
    raw_csv: Path, tables: Ingested, tmp_path: Path
) -> None:
    again = tmp_path / "again.csv"
    write_dmsc_csv(again, n_users=400, seed=7)
    assert again.read_bytes() == raw_csv.read_bytes()
    assert raw_csv.read_bytes().startswith(b"\xef\xbb\xbfID,")
    reasons = set(tables.rejects["reason"])
    assert {"no username", "blank text", "another review of this film by this user"} <= reasons


def test_the_synthetic_release_has_the_published_distributions(tmp_path: Path) -> None:
    write_dmsc_csv(tmp_path / "DMSC.csv", n_users=10_000, seed=1)
    release = pl.read_csv(tmp_path / "DMSC.csv", infer_schema=False)
    published = {"1": 190_927, "2": 179_678, "3": 474_559, "4": 641_786, "5": 638_106}
    shares = dict(release["Star"].value_counts(normalize=True).iter_rows())
    for star, count in published.items():
        assert shares[star] == pytest.approx(count / 2_125_056, abs=0.005)
    assert release.height / 10_000 == pytest.approx(2.877, rel=0.05)
    assert (release["Like"] == "0").mean() == pytest.approx(0.9, abs=0.01)
    assert release["Comment"].str.starts_with(" ").all()
    length = release["Comment"].str.strip_chars().str.len_chars()
    assert length.median() == pytest.approx(35, abs=3) and int(length.max()) <= 200  # type: ignore[arg-type]
    assert (length < 10).mean() == pytest.approx(0.2, abs=0.03)


def test_samples_are_nested_and_independent_of_row_order(tables: Ingested) -> None:
    split = split_users(tables.users, 0.1, 0.1, seed=42)
    samples = {
        k: set(sample_targets(tables.interactions, split, "train", k, None, 42)["interaction_id"]) for k in (2, 5, None)
    }
    assert samples[2] < samples[5] < samples[None]
    shuffled = tables.interactions.sample(fraction=1.0, shuffle=True, seed=1)
    assert set(sample_targets(shuffled, split, "train", 2, None, 42)["interaction_id"]) == samples[2]
    per_user = sample_targets(tables.interactions, split, "train", 2, None, 42).group_by("user_id").len()
    assert per_user["len"].max() == 2


def test_cohorts_share_no_user_with_training(tables: Ingested) -> None:
    split = split_users(tables.users, 0.1, 0.1, seed=42)
    users = [
        set(sample_targets(tables.interactions, split, s, 2, None, 42)["user_id"]) for s in ("train", "val", "test")
    ]
    assert not users[0] & users[1] and not users[0] & users[2] and not users[1] & users[2]


def test_tables_have_the_same_bytes_when_rebuilt(tables: Ingested, tmp_path: Path) -> None:
    rows = list(range(tables.interactions.height))
    random.Random(3).shuffle(rows)
    for name, table in (("a", tables.interactions), ("b", tables.interactions[rows])):
        write_table(table, tmp_path / name, schemas.INTERACTIONS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_damaged_table_is_not_taken_for_whole(tables: Ingested, tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    write_table(tables.users, path, schemas.USERS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PersonaError, match=r"users\.parquet: not a readable Parquet file"):
        read_table(path, schemas.USERS)


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


def test_the_kept_duplicate_and_the_title_do_not_depend_on_row_order(tmp_path: Path) -> None:
    rows = [raw_row(), raw_row()]
    rows[0][2], rows[1][2] = "甲", "乙"
    kept = [ingested(write_raw(tmp_path / "DMSC.csv", order)).items["title"].item() for order in (rows, rows[::-1])]
    assert kept[0] == kept[1]


def test_users_of_an_item_fall_into_one_split() -> None:
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(300)], "item_id": [f"i{n // 3}" for n in range(300)]})
    split = split_users(pl.concat([users, users]), 0.2, 0.2, seed=1, by="item").join(users, on="user_id")
    assert split.height == 300 and set(split["split"]) == {"train", "val", "test"}
    assert (split.group_by("item_id").agg(pl.col("split").n_unique())["split"] == 1).all()
    with pytest.raises(PersonaError, match=r"split.by: item: user u0 has several items, i0, x; allowed is user"):
        split_users(pl.concat([users, pl.DataFrame({"user_id": ["u0"], "item_id": ["x"]})]), 0.2, 0.2, 1, by="item")


def test_what_a_killed_ingestion_left_is_taken_away(raw_csv: Path, tmp_path: Path) -> None:
    (tmp_path / ".ingest-old").mkdir()
    (tmp_path / ".ingest-old" / "3.arrow").write_bytes(b"half")
    ingest(raw_csv, "dmsc_csv", tmp_path, Options(), 1.0)
    assert {file.suffix for file in tmp_path.iterdir()} == {".parquet"}
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_rows_of_a_day_share_a_session(tables: Ingested) -> None:
    """Sessions count a user's days, in their order."""
    for (_,), rows in tables.interactions.group_by("user_id"):
        days = sorted(set(rows["day"]))
        assert [days.index(day) for day in rows["day"]] == rows["session"].to_list()
        assert sorted(rows["position"]) == list(range(rows.height))
