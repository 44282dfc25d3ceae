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
        "runs": ["tiny"],
        "base_model": "maker/small@main",
        "is_tiny": False,
        "model_name": "small",
        "prompt_style": "detailed",
        "prompt": {"parts": parts, "task": "预测用户会写的影评", "cue": "影评：", "max_history_characters": None},
        "shows_user": True,
        "fit": {"max_length": 256},
        "metrics": f"evaluation/two/{ablation}/tiny/metrics.json",
        **changes,
    }


def write_study(folder: Path, stages: dict[str, dict[str, Any]], **settings: Any) -> Study:
    description = {
        "dataset": "dmsc",
        "raw": {"path": "raw.csv", "format": "dmsc_csv", "options": {"pseudonymise": False}},
        "cues": ["影评：", None],
        "synthetic": False,
        "settings": {"split": {"seed": 42}, "cohorts": {"test": {"max_users": None}}, **settings},
        "generation": {},
        "styles": {"detailed": read_yaml(ROOT / "config" / "prompts" / "detailed.yaml")},
        "stages": stages,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stages.json").write_text(json.dumps(description), encoding="utf-8")
    return Study.load(folder)
