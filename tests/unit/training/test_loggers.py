"""Experiment trackers get the figures of a training, also of one that was killed; one that fails ends nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from persona.errors import PersonaError
from persona.training.loggers import TRACKERS, VARIABLE
from persona.training.logs import TEXT_LOG, TrainingLog
from tests.unit.training.test_logs import step, validation

FACTORS = {"sample": "two", "ablation": "full", "recipe": "tiny"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs/two/full/tiny/v1"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def log_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets where trainings log to."""

    def choose(tracker: str) -> None:
        settings = {"to": [tracker], "project": "films", "run_name": "{sample}-{recipe}", "mode": "offline"}
        monkeypatch.setenv(VARIABLE, json.dumps(settings))

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return choose


def killed_and_resumed(folder: Path) -> None:
    """Three steps, of which the last is lost; the second start does it again."""
    first = TrainingLog(folder, 4, {"step": 0, "val": 0}, FACTORS, "a" * 21)
    for n in (1, 2, 3):
        first.step(step(n, 1) | {"loss": 10.0 + n})
    first.close()
    second = TrainingLog(folder, 4, {"step": 2, "val": 0}, FACTORS, "a" * 21)
    second.step(step(3, 1) | {"loss": 20.0})
    second.validation(validation(3, 1))
    second.close()


def test_tensorboard_shows_each_step_once(run: Path, log_to: Callable[[str], None]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_to("tensorboard")
    killed_and_resumed(run)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(1, 11.0), (2, 12.0), (3, 20.0)]
    assert [event.value for event in events.Scalars("val/val_loss")] == [1.5]


def test_wandb_keeps_an_offline_run_in_the_run_folder(run: Path, log_to: Callable[[str], None]) -> None:
    log_to("wandb")
    killed_and_resumed(run)
    assert len(list((run / "wandb").glob("offline-run-*/*.wandb"))) == 2


def test_mlflow_goes_on_in_the_same_run(run: Path, log_to: Callable[[str], None]) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient

    log_to("mlflow")
    killed_and_resumed(run)
    client = MlflowClient(f"sqlite:///{run.parents[3] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("films")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("two-tiny", "FINISHED")
    losses = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, "train/loss")}
    assert losses == {1: 11.0, 2: 12.0, 3: 20.0}


def test_swanlab_keeps_an_offline_run_in_the_run_folder(run: Path, log_to: Callable[[str], None]) -> None:
    pytest.importorskip("swanlab", reason="swanlab is not installed")
    log_to("swanlab")
    killed_and_resumed(run)
    assert any((run / "swanlab").iterdir())


def test_a_tracker_that_fails_is_left_out_and_the_training_goes_on(
    run: Path, log_to: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable:
        def log(self, values: object, step: int) -> None:
            raise ConnectionError("no route\nto host")

    monkeypatch.setitem(TRACKERS, "mlflow", lambda info: Unreachable())
    log_to("mlflow")
    killed_and_resumed(run)
    lines = (run / TEXT_LOG).read_text().splitlines()
    assert lines.count("mlflow gets nothing more: ConnectionError: no route to host") == 2
    assert len([line for line in lines if "step" in line and "loss" in line]) >= 4


def test_a_tracker_that_cannot_start_is_named(
    run: Path, log_to: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(info: object) -> None:
        raise OSError("no such server")

    monkeypatch.setitem(TRACKERS, "mlflow", refuse)
    log_to("mlflow")
    with pytest.raises(PersonaError, match=r"log_to: mlflow cannot be started \(OSError: no such server\)"):
        killed_and_resumed(run)


def test_without_trackers_none_is_started(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    killed_and_resumed(run)
    assert sorted(path.name for path in run.iterdir()) == ["train_log.jsonl", "training_logs"]
