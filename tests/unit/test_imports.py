"""Which modules may import which: no circles, light settings, training and evaluation apart."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
SETTINGS = [name for name in MODULES if name.endswith("settings")]
HEAVY = {"torch", "transformers", "deepspeed", "polars", "matplotlib", "sklearn"}


def imports_of(name: str) -> set[str]:
    """The modules of this library that a module imports when it is imported."""
    found = set()
    for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(MODULES)


def all_imports_of(name: str) -> set[str]:
    """The same, directly or not."""
    pending, seen = [name], set[str]()
    while pending:
        new = imports_of(pending.pop()) - seen
        seen |= new
        pending += new
    return seen


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_imports_itself_by_way_of_others(name: str) -> None:
    assert name not in all_imports_of(name)


def test_training_does_not_know_evaluation_and_evaluation_does_not_know_training() -> None:
    for one, other in (("training", "evaluation"), ("evaluation", "training")):
        users = [name for name in MODULES if name.startswith(f"persona.{one}.")]
        assert not {m for name in users for m in all_imports_of(name) if m.startswith(f"persona.{other}")}


def test_settings_are_light() -> None:
    """The configuration is made of them, and it is read at every start of Snakemake."""
    code = f"import sys, {', '.join(SETTINGS)}; print(sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
