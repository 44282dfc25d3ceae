"""Two results folders are compared on the same targets, or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from persona.__main__ import main
from persona.errors import PersonaError
from persona.reporting.runs import compare_runs, difference_table, pairs_of
from persona.study import Study
from persona.tables import schemas
from persona.tables.parquet import write_table
from tests.unit.reporting.conftest import make_targets, scores
from tests.unit.studies import stage, write_study


def results(folder: Path, rows: dict[str, pl.DataFrame], **settings: object) -> Study:
    study = write_study(folder, {name: stage(name) for name in rows}, **settings)
    write_table(make_targets(), study.table("targets"), schemas.TARGETS)
    for name, table in rows.items():
        write_table(table, study.stages[name].evaluated() / "scores.parquet", schemas.SCORES)
    return study


def noisy(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    noise = np.random.default_rng(seed).normal(-0.5, 1, table.height)
    return table.with_columns(nll=pl.col("nll") + pl.Series(noise))


def test_differences_are_paired_by_target(tmp_path: Path, targets: pl.DataFrame) -> None:
    one = {"quick": scores(targets, 1.0), "history": scores(targets, 2.0)}
    other = {name: noisy(table, n) for n, (name, table) in enumerate(one.items())}
    pairs = pairs_of(results(tmp_path / "a", one), results(tmp_path / "b", other), None, None)
    found = difference_table(compare_runs(pairs))
    assert found.select("stage", "metric").rows() == [
        (name, metric) for name in ("quick", "history") for metric in ("test NLL", "swap gap")
    ]
    for name in one:
        row = found.filter(stage=name, metric="test NLL").row(0, named=True)
        change = other[name]["nll"].to_numpy() - one[name]["nll"].to_numpy()
        assert row["b_minus_a"] == pytest.approx(change.sum() / one[name]["n_characters"].sum())
        assert row["low"] < row["b_minus_a"] < row["high"]
        assert row["users_helped"] == pytest.approx((change < 0).mean())
    raw = sorted(found["p"])
    # Holm: the smallest of n p-values times n, and so on, never falling.
    expected = np.minimum(1, np.maximum.accumulate([p * (len(raw) - n) for n, p in enumerate(raw)]))
    assert sorted(found["p_adjusted"]) == pytest.approx(expected)


def test_two_stages_of_one_folder_are_compared_by_name(tmp_path: Path, targets: pl.DataFrame) -> None:
    study = results(tmp_path, {"quick": scores(targets, 0.0), "history": scores(targets, 2.0)})
    found = compare_runs(pairs_of(study, study, "quick", "history"))
    assert [each.name for each in found] == ["history - quick"] * 2
    assert found[0].estimate.value == pytest.approx(-0.2) and found[1].estimate.value == pytest.approx(0.2)


def test_other_cohorts_are_refused_with_how_they_differ(tmp_path: Path, targets: pl.DataFrame) -> None:
    table = scores(targets, 1.0)
    one = results(tmp_path / "a", {"history": table})
    other = results(tmp_path / "b", {"history": table.head(30)}, split={"seed": 7})
    with pytest.raises(PersonaError) as refused:
        compare_runs(pairs_of(one, other, None, None))
    assert str(refused.value).endswith(
        "have different cohorts, so they cannot be compared: 30 test targets are in both, 10 only in the first, "
        "0 only in the second. Settings that differ: split.seed: 42 and 7"
    )
    changed = results(tmp_path / "c", {"history": table})
    # As long as before.
    reversed_texts = targets.with_columns(text=pl.col("text").str.reverse())
    write_table(reversed_texts, changed.table("targets"), schemas.TARGETS)
    with pytest.raises(
        PersonaError,
        match=r"40 have another text of the same id\. .* the raw data or the version",
    ):
        compare_runs(pairs_of(one, changed, None, None))


def test_swap_gaps_with_other_impostors_are_not_compared(tmp_path: Path, targets: pl.DataFrame) -> None:
    table = scores(targets, 1.0)
    one = results(tmp_path / "a", {"history": table})
    other = results(tmp_path / "b", {"history": table.with_columns(pl.col("impostor_ids").list.reverse())})
    nll, gap = compare_runs(pairs_of(one, other, None, None))
    assert nll.estimate.value == 0
    assert gap.estimate.note and gap.estimate.note.startswith("other impostors") and gap.p_adjusted is None


def test_the_command_prints_and_writes_tables_and_a_plot(
    tmp_path: Path, targets: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results(tmp_path / "a", {"history": scores(targets, 1.0)})
    results(tmp_path / "b", {"history": noisy(scores(targets, 1.0), 0)})
    monkeypatch.setattr(sys, "argv", ["persona", "compare", "a", "b"])
    main()
    printed = capsys.readouterr().out
    assert printed.startswith("A is a, B is b; 40 test targets, paired\n")
    assert "history  test NLL  -0.0" in printed
    table = pl.read_csv("compare/differences.csv")
    assert table["metric"].to_list() == ["test NLL", "swap gap"]
    assert Path("compare/differences.svg").read_text().startswith("<svg")
    assert "| history" in Path("compare/differences.md").read_text()


def test_folders_without_a_common_stage_are_refused(tmp_path: Path, targets: pl.DataFrame) -> None:
    one = results(tmp_path / "a", {"quick": scores(targets, 1.0)})
    other = results(tmp_path / "b", {"history": scores(targets, 1.0)})
    with pytest.raises(PersonaError, match="name that one with --stage"):
        pairs_of(one, other, None, "history")
    with pytest.raises(PersonaError, match="none in both; name one of each with --stage and --against"):
        pairs_of(one, other, None, None)
