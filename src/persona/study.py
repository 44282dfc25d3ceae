"""The stages of a results folder, as the workflow described them in its `stages.json`."""

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

DESCRIPTION = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One stage: where its files are and what its prompts are made of.

    Attributes:
        folder: the results folder of the data set.
        runs: the recipe, and further seeds of it: `full`, `full_seed43`.
        base_model: the folder or hub id that the training started from.
        is_tiny: whether the base model is one that the workflow made.
        spec: what its prompts are made of.
        fit: how its prompts are made to fit the model.
    """

    name: str
    folder: Path
    sample: str
    ablation: str
    recipe: str
    runs: list[str]
    base_model: str
    is_tiny: bool
    model_name: str
    prompt_style: str
    spec: PromptSpec
    fit: FitSettings
    metrics: Path
    shows_user: bool

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
            PersonaError: it was not trained yet.
        """
        folder = self.trained() / "model"
        if not folder.is_dir():
            raise PersonaError(f"{folder}: there is no such model yet; train it: snakemake train_{self.name}")
        return folder

    def tokens(self, sample: str) -> Path:
        """The tokens of a sample's prompts."""
        return self.folder / "tokens" / sample / self.ablation / f"{self.model_name}.parquet"

    def prompts(self, sample: str) -> Path:
        """A sample's prompts."""
        return self.folder / "prompts" / sample / f"{self.ablation}.parquet"


@dataclass(frozen=True)
class Study:
    """A results folder of one data set, such as `results/dmsc`, and what the workflow wrote of its stages."""

    folder: Path
    description: dict[str, Any]

    @classmethod
    def load(cls, folder: Path | None) -> Study:
        """Read the description of a results folder; by default of the only one below `results`.

        Raises:
            PersonaError: there is none, or there are several to choose from.
        """
        if folder is None:
            found = sorted(Path("results").glob(f"**/{DESCRIPTION}")) if Path("results").is_dir() else []
            if len(found) != 1:
                several = ", ".join(str(file.parent) for file in found)
                raise PersonaError(
                    f"there are several results folders; choose one with --results: {several}"
                    if found
                    else "results: no results folder found here; give one with --results, such as results/dmsc"
                )
            folder = found[0].parent
        file = folder / DESCRIPTION
        if not file.is_file():
            below = [path.parent for path in sorted(folder.glob(f"**/{DESCRIPTION}"))]
            hint = (
                f"; did you mean {below[0]}?"
                if below
                else "; make it: snakemake describe_stages, with your --configfile"
            )
            raise PersonaError(f"{file}: no such file{hint}")
        return cls(folder, json.loads(file.read_text(encoding="utf-8")))

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages by name, in the order of the configuration."""
        return {name: self._stage(name, settings) for name, settings in self.description["stages"].items()}

    def stage(self, name: str | None) -> Stage:
        """A stage by its name; by default the last one that was trained.

        Raises:
            PersonaError: there is no such stage, or none was trained.
        """
        if name in self.stages:
            return self.stages[name]
        if name is not None:
            nearest = get_close_matches(name, self.stages, n=1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise PersonaError(f"{name}: no such stage{hint}; there are {', '.join(self.stages)}")
        trained = self.trained_stages()
        if not trained:
            raise PersonaError(f"{self.folder}: no stage was trained yet; train one: snakemake train_all")
        return trained[-1]

    def trained_stages(self) -> list[Stage]:
        """The stages whose model is there."""
        return [stage for stage in self.stages.values() if (stage.trained() / "model").is_dir()]

    def table(self, name: str) -> Path:
        """The path of a table of the data set, such as `users`."""
        return self.folder / f"{name}.parquet"

    @property
    def pseudonymised(self) -> bool:
        """Whether names were left out of the data."""
        return bool(self.description["raw"]["options"]["pseudonymise"])

    @property
    def cues(self) -> tuple[str, str | None]:
        """The last line of the prompts, and the one that asks for the stars instead."""
        cue, rating_cue = self.description["cues"]
        return cue, rating_cue

    def _stage(self, name: str, settings: dict[str, Any]) -> Stage:
        style = parse_style(self.description["styles"][settings["prompt_style"]], self.folder / DESCRIPTION)
        known = {key: value for key, value in settings.items() if key in Stage.__dataclass_fields__}
        return Stage(
            **known
            | {
                "name": name,
                "folder": self.folder,
                "spec": PromptSpec.load(style, settings["prompt"]),
                "fit": FitSettings.model_validate(settings["fit"]),
                "metrics": self.folder / settings["metrics"],
            }
        )
