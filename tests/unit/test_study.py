"""A results folder is found with its trained stages, and what is missing is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persona.errors import PersonaError
from persona.study import Study
from tests.unit.studies import stage, write_model, write_study


def test_the_only_results_folder_is_found_and_of_several_one_must_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PersonaError, match="no trained stage found here; give the folder of a data set with --results"):
        Study.load(None)
    write_study(tmp_path / "results/dmsc", {"history": stage("history")})
    assert Study.load(None).folder == Path("results/dmsc")
    write_study(tmp_path / "results/real/dmsc", {"history": stage("history")})
    with pytest.raises(PersonaError, match="choose one with --results: results/dmsc, results/real/dmsc"):
        Study.load(None)
    with pytest.raises(PersonaError, match=r"results: has no trained stage; did you mean results/dmsc\?"):
        Study.load(Path("results"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PersonaError, match="empty: has no trained stage; train one: snakemake train_all"):
        Study.load(Path("empty"))


def test_stages_are_in_the_order_of_the_configuration_and_the_last_is_the_default(tmp_path: Path) -> None:
    study = write_study(tmp_path, {name: stage(name) for name in ("quick", "history", "all")})
    assert list(study.stages) == ["quick", "history", "all"]
    assert study.stage(None).name == "all"
    with pytest.raises(PersonaError, match=r"no such stage was trained \(did you mean history\?\); there are quick"):
        study.stage("histori")


def test_of_two_trainings_of_one_name_the_later_counts(tmp_path: Path) -> None:
    write_study(tmp_path, {"history": stage("old")})
    os.utime(next(tmp_path.rglob("stage.json")), (1, 1))
    study = write_study(tmp_path, {"history": stage("new")})
    assert list(study.stages) == ["history"] and study.stages["history"].ablation == "new"


def test_a_deleted_model_and_a_damaged_description_are_named(tmp_path: Path) -> None:
    study = write_study(tmp_path, {"history": stage("history")})
    with pytest.raises(PersonaError, match="the model is not there; make it again: snakemake train_history"):
        _ = study.stages["history"].model
    assert write_model(study, "history") == study.stages["history"].model
    next(tmp_path.rglob("stage.json")).write_text("{")
    with pytest.raises(PersonaError, match=r"stage\.json: cannot be read \(JSONDecodeError\); delete it"):
        Study.load(tmp_path)
