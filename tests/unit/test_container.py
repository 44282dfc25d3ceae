"""The container recipe fits the repository. No image is built here: that takes a container engine."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]


def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M).replace("\\\n", "")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line]


def copied() -> list[str]:
    return [name for step, arguments in steps() if step == "COPY" for name in arguments.split()[:-1]]


def test_the_image_has_a_python_that_the_project_supports() -> None:
    step, image = steps()[0]
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", image)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert step == "FROM" and version
    assert version[1] in SpecifierSet(project["requires-python"])


def test_what_is_copied_is_there_and_is_all_that_a_run_needs() -> None:
    assert all((ROOT / name).exists() for name in copied())
    needed = {"Snakefile", "src", "workflow", "config", "profiles", "pyproject.toml", "requirements.lock"}
    assert needed <= set(copied())


def test_packages_are_those_of_the_lock_with_their_hashes() -> None:
    installs = [arguments for step, arguments in steps() if step == "RUN" and "pip install" in arguments]
    assert "--require-hashes --requirement requirements.lock" in installs[0]
    assert all("--no-deps" in arguments for arguments in installs[1:])


def test_it_starts_snakemake_on_the_snakefile_that_was_copied() -> None:
    given = dict(steps())
    entry = json.loads(given["ENTRYPOINT"])
    folders = [arguments for step, arguments in steps() if step == "WORKDIR"]
    assert entry == ["snakemake", "--snakefile", f"{folders[0]}/Snakefile"]
