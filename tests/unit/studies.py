"""A results folder as the workflow describes it, with as little as a test needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from persona.study import Study
from persona.yaml_files import read_yaml

ROOT = Path(__file__).parents[2]


def stage(ablation: str, **changes: Any) -> dict[str, Any]:
    parts = {"profile": True, "history": ablation == "history", "context": False, "user": True}
    return {
        "sample": "two",
        "ablation": ablation,
        "recipe": "tiny",
        "number": 0,
        "runs": ["tiny"],
        "base_model": "maker/small@main",
        "is_tiny": False,
        "model_name": "small",
        "style": read_yaml(ROOT / "config" / "prompts" / "detailed.yaml"),
        "cues": ["影评：", None],
        "generation": {},
        "data": {
            "name": "dmsc",
            "path": "raw.csv",
            "format": "dmsc_csv",
            "options": {"pseudonymise": False},
            "synthetic": None,
            "min_reviews_per_user": 1,
            "split": {"seed": 42},
            "cohorts": {"test": {"max_users": None}},
        },
        "prompt": {"parts": parts, "task": "预测用户会写的影评", "cue": "影评：", "max_history_characters": None},
        "shows_user": True,
        "fit": {"max_length": 256},
        "metrics": f"evaluation/two/{ablation}/tiny/metrics.json",
        **changes,
    }


def write_study(folder: Path, stages: dict[str, dict[str, Any]], **data: Any) -> Study:
    """Describe stages that were trained; their models are not there. `data` changes what is said of the data."""
    for number, (name, settings) in enumerate(stages.items()):
        place = folder / "models" / settings["sample"] / settings["ablation"] / settings["recipe"]
        place.mkdir(parents=True, exist_ok=True)
        described = settings | {"name": name, "number": number, "data": settings["data"] | data}
        (place / "stage.json").write_text(json.dumps(described), encoding="utf-8")
        # Of a base model of the hub the manifest has the commit.
        (place / "manifest.json").write_text(json.dumps({"parameters": {"base_model": "c" * 40}}), encoding="utf-8")
    return Study.load(folder)


def write_model(study: Study, name: str) -> Path:
    """A folder that looks like the model of a stage."""
    folder = study.stages[name].trained() / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8}))
    return folder
