"""The synthetic release: reproducible, with the quirks and the marginals of the real one."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from persona.ingestion.ingest import Ingested
from persona.ingestion.synthetic import write_dmsc_csv


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


def test_users_write_at_least_as_many_reviews_as_asked_for(tmp_path: Path) -> None:
    write_dmsc_csv(tmp_path / "DMSC.csv", n_users=60, seed=1, min_reviews=20)
    counts = pl.read_csv(tmp_path / "DMSC.csv", infer_schema=False)["Username"].value_counts()
    # Some rows got another name or none: a quirk.
    assert counts["count"].median() >= 18  # type: ignore[operator]
    assert 20 * 60 <= counts["count"].sum() <= 28 * 60
