"""The trained stages of a results folder, as the workflow described each beside its model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from persona.errors import PersonaError
from persona.prompts import PromptSpec, parse_style
from persona.tokenization.settings import FitSettings

DESCRIPTION = "stage.json"
BELOW = f"models/*/*/*/{DESCRIPTION}"  # of a data set's folder


@dataclass(frozen=True)
class Stage:
    """One trained stage: where its files are and how it was trained to be asked.

    Attributes:
        number: its place in the configuration.
        folder: the results folder of the data set.
        runs: the recipe, and further seeds of it: `full`, `full_seed43`.
        base_model: the folder or hub id that the training started from.
        is_tiny: whether the base model is one that the workflow made.
        spec: what its prompts are made of.
        cues: the last line of its prompts, and the one that asks for the stars instead.
        fit: how its prompts are made to fit the model.
        generation: of `GenerationSettings`.
        data: the raw data, the split and the cohorts.
    """

    name: str
    number: int
    folder: Path
    sample: str
    ablation: str
    recipe: str
    runs: list[str]
    base_model: str
    is_tiny: bool
    model_name: str
    spec: PromptSpec
    cues: tuple[str, str | None]
    fit: FitSettings
    generation: dict[str, Any]
    metrics: Path
    shows_user: bool
    data: dict[str, Any]

    def trained(self, run: str | None = None) -> Path:
        """The folder of a training: `model/`, `manifest.json`, `train_log.jsonl`; by default of the first seed."""
        return self.folder / "models" / self.sample / self.ablation / (run or self.recipe)

    def evaluated(self, run: str | None = None) -> Path:
        """The folder of an evaluation: `scores.parquet`, `generations.parquet`."""
        return self.folder / "evaluation" / self.sample / self.ablation / (run or self.recipe)

    @property
    def model(self) -> Path:
        """The trained model.

        Raises:
            PersonaError: it is not there any more.
        """
        folder = self.trained() / "model"
        if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
            raise PersonaError(f"{folder}: the model is not there; make it again: snakemake train_{self.name}")
        return folder

    @property
    def starts_from_hub(self) -> bool:
        """Whether the training read its base model from the hub. Of a folder the manifest has a digest."""
        manifest = json.loads((self.trained() / "manifest.json").read_text(encoding="utf-8"))
        return len(str(manifest["parameters"]["base_model"])) < 64

    def untrained_without(self, without: frozenset[str]) -> list[str]:
        """Those of some parts that its prompts showed in training."""
        return sorted(part for part in without if getattr(self.spec.parts, part))

    def tokens(self, sample: str) -> Path:
        """The tokens of a sample's prompts."""
        return self.folder / "tokens" / sample / self.ablation / f"{self.model_name}.parquet"

    def prompts(self, sample: str) -> Path:
        """A sample's prompts."""
        return self.folder / "prompts" / sample / f"{self.ablation}.parquet"


def described_stage(file: Path) -> Stage:
    """Read the description of a stage.

    Raises:
        PersonaError: it is damaged.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        known = {key: value for key, value in settings.items() if key in Stage.__dataclass_fields__}
        # DATASET/models/SAMPLE/ABLATION/RECIPE/stage.json
        folder = file.parents[4]
        return Stage(
            **known
            | {
                "folder": folder,
                "spec": PromptSpec.load(parse_style(settings["style"], file), settings["prompt"]),
                "cues": tuple(settings["cues"]),
                "fit": FitSettings.model_validate(settings["fit"]),
                "metrics": folder / settings["metrics"],
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PersonaError(
            f"{file}: cannot be read ({type(error).__name__}); delete it and run snakemake again"
        ) from error


@dataclass(frozen=True)
class Study:
    """A results folder of one data set, such as `results/dmsc`, and its trained stages."""

    folder: Path
    stages: dict[str, Stage]

    @classmethod
    def load(cls, folder: Path | None) -> Study:
        """Read the stages of a results folder; by default of the only one below `results`.

        Of two trainings that were a stage of the same name, the one that was described last counts.

        Raises:
            PersonaError: there is none, or there are several to choose from.
        """
        if folder is None:
            found = _folders(Path("results"))
            if len(found) != 1:
                several = ", ".join(map(str, found))
                raise PersonaError(
                    f"there are several results folders; choose one with --results: {several}"
                    if found
                    else "results: no trained stage found here; give the folder of a data set with --results, such as "
                    "results/dmsc, or train: snakemake train_all"
                )
            folder = found[0]
        files = sorted(folder.glob(BELOW), key=lambda file: file.stat().st_mtime)
        if not files:
            below = _folders(folder)
            hint = f"; did you mean {below[0]}?" if below else "; train one: snakemake train_all"
            raise PersonaError(f"{folder}: has no trained stage{hint}")
        stages = {stage.name: stage for stage in map(described_stage, files)}
        return cls(folder, dict(sorted(stages.items(), key=lambda item: item[1].number)))

    def stage(self, name: str | None) -> Stage:
        """A stage by its name; by default the last one of the configuration.

        Raises:
            PersonaError: there is no such stage.
        """
        if name is None:
            return list(self.stages.values())[-1]
        if name not in self.stages:
            nearest = get_close_matches(name, self.stages, n=1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise PersonaError(f"{name}: no such stage was trained{hint}; there are {', '.join(self.stages)}")
        return self.stages[name]

    def table(self, name: str) -> Path:
        """The path of a table of the data set, such as `users`."""
        return self.folder / f"{name}.parquet"

    @cached_property
    def data(self) -> dict[str, Any]:
        """The raw data, the split and the cohorts."""
        return self.stage(None).data

    @property
    def is_pseudonymised(self) -> bool:
        """Whether names were left out of the data."""
        return bool(self.data["options"]["pseudonymise"])


def _folders(below: Path) -> list[Path]:
    """The data sets' folders with trained stages."""
    return sorted({file.parents[4] for file in below.glob(f"**/{BELOW}")}) if below.is_dir() else []
