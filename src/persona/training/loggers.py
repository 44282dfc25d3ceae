"""Sends the figures of a training to experiment trackers: W&B, TensorBoard, MLflow, SwanLab. Each is optional."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from persona.errors import PersonaError

VARIABLE = "LOG_TO"  # of the environment: JSON of LogSettings; not an argument, because it does not change a training
MLFLOW_TAG = "persona.run"


class Logger(Protocol):
    """What a training asks of a tracker."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note figures of an optimizer step."""

    def close(self) -> None:
        """End the run."""


@dataclass(frozen=True)
class RunInfo:
    """A run as trackers know it.

    Attributes:
        folder: the run folder; what trackers keep on this disk is in it or beside it.
        run: an id that stays the same when the training is resumed.
        name: what people read.
        first_step: the step that comes first in this start.
        is_online: whether figures are sent to a service; else they are kept on this disk.
    """

    folder: Path
    run: str
    name: str
    project: str
    first_step: int
    is_online: bool


def start_loggers(folder: Path, factors: Mapping[str, str], run: str, first_step: int) -> dict[str, Logger]:
    """Start the trackers that the environment variable `LOG_TO` names; none if it is not set.

    Raises:
        PersonaError: one cannot be started, such as for want of a network.
    """
    settings = json.loads(os.environ.get(VARIABLE, "{}"))
    if not settings:
        return {}
    name = settings["run_name"].format(**{"sample": "", "ablation": "", "recipe": "", **factors})
    info = RunInfo(folder, run, name, settings["project"], first_step, settings["mode"] == "online")
    return {tracker: _start(tracker, info) for tracker in settings["to"]}


def _start(tracker: str, info: RunInfo) -> Logger:
    try:
        logger: Logger = TRACKERS[tracker](info)
    except Exception as error:  # of any library
        raise PersonaError(
            f"log_to: {tracker} cannot be started ({type(error).__name__}: {' '.join(str(error).split())}); "
            "fix this, or leave it out of log_to"
        ) from error
    return logger


class Wandb:
    """Weights & Biases; offline runs are in the run folder, and `wandb sync` sends them."""

    def __init__(self, info: RunInfo) -> None:
        import wandb

        self._run = wandb.init(
            project=info.project,
            name=info.name or None,
            mode="online" if info.is_online else "offline",
            id=info.run,
            resume="allow",
            dir=info.folder,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note figures of an optimizer step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class TensorBoard:
    """TensorBoard; `tensorboard --logdir results/dmsc/runs` shows all runs."""

    def __init__(self, info: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a killed training wrote after its last checkpoint is not shown.
        self._writer = SummaryWriter(str(info.folder / "tensorboard"), purge_step=info.first_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note figures of an optimizer step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """End the run."""
        self._writer.close()


class MLflow:
    """MLflow: the server that MLFLOW_TRACKING_URI names, else `runs/mlflow.db` of the data set."""

    def __init__(self, info: RunInfo) -> None:
        from mlflow.tracking import MlflowClient

        # RUNS/SAMPLE/ABLATION/RECIPE/v1
        runs = info.folder.resolve().parents[3]
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}"))
        experiment = self._client.get_experiment_by_name(info.project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(info.project)
        found = self._client.search_runs([number], f"tags.`{MLFLOW_TAG}` = '{info.run}'")
        self._run = (
            found[0].info.run_id
            if found
            else self._client.create_run(number, run_name=info.name, tags={MLFLOW_TAG: info.run}).info.run_id
        )
        self._client.update_run(self._run, status="RUNNING")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note figures of an optimizer step."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)


class SwanLab:
    """SwanLab; offline runs are in the run folder, and `swanlab sync` sends them."""

    def __init__(self, info: RunInfo) -> None:
        import swanlab

        self._run = swanlab.init(
            project=info.project,
            name=info.name or None,
            mode="online" if info.is_online else "offline",
            id=info.run,
            resume="allow",
            log_dir=str(info.folder / "swanlab"),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note figures of an optimizer step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


TRACKERS: dict[str, Callable[[RunInfo], Any]] = {
    "wandb": Wandb,
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "swanlab": SwanLab,
}
