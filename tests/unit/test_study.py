"""A results folder is found, and what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona.errors import PersonaError
from persona.study import Study
from tests.unit.studies import stage, write_study


def test_the_only_results_folder_is_found_and_of_several_one_must_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PersonaError, match="no results folder found here; give one with --results"):
        Study.load(None)
    write_study(tmp_path / "results/dmsc", {"history": stage("history")})
    assert Study.load(None).folder == Path("results/dmsc")
    write_study(tmp_path / "results/real/dmsc", {"history": stage("history")})
    with pytest.raises(PersonaError, match="choose one with --results: results/dmsc, results/real/dmsc"):
        Study.load(None)
    with pytest.raises(PersonaError, match=r"results/stages\.json: no such file; did you mean results/dmsc\?"):
        Study.load(Path("results"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PersonaError, match=r"empty/stages\.json: no such file; make it: snakemake describe_stages"):
        Study.load(Path("empty"))


def test_the_last_trained_stage_is_the_default(tmp_path: Path) -> None:
    study = write_study(tmp_path, {name: stage(name) for name in ("quick", "history", "all")})
    with pytest.raises(PersonaError, match="no stage was trained yet; train one: snakemake train_all"):
        study.stage(None)
    for name in ("quick", "history"):
        (study.stages[name].trained() / "model").mkdir(parents=True)
    assert study.stage(None).name == "history"
    with pytest.raises(PersonaError, match="there is no such model yet; train it: snakemake train_all"):
        _ = study.stage("all").model
    with pytest.raises(
        PersonaError, match=r"histori: no such stage \(did you mean history\?\); there are quick, history, all"
    ):
        study.stage("histori")
