"""The places that say which versions are installed agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PYTHONS = ("3.11", "3.12", "3.13")


def pins() -> dict[str, str]:
    """The version of each package that pyproject.toml names, extras included."""
    given = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    # An extra may name others, as persona[slurm].
    wanted = [Requirement(line) for line in given if Requirement(line).name != PROJECT["name"]]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in wanted}


def locked() -> list[tuple[Requirement, str]]:
    """Each requirement of the lock file, with the lines of its hashes."""
    entries = re.split(r"\n(?=[a-z0-9])", LOCK.strip())
    return [(Requirement(entry.split("\\")[0]), entry.partition("\n")[2]) for entry in entries]


def test_the_lock_has_the_pins_of_the_project_for_every_python() -> None:
    for python in PYTHONS:
        environment = {"python_full_version": f"{python}.1", "python_version": python}
        versions = {
            requirement.name: str(requirement.specifier).removeprefix("==")
            for requirement, _ in locked()
            if requirement.marker is None or requirement.marker.evaluate(environment)
        }
        assert pins().items() <= versions.items(), "renew it with `make lock`"


def test_every_package_of_the_lock_has_one_version_and_hashes_and_no_address() -> None:
    for requirement, hashes in locked():
        assert re.fullmatch(r"==[^=,*]+", str(requirement.specifier)), requirement
        assert re.fullmatch(r"( +--hash=sha256:[0-9a-f]{64}( \\\n|$))+", hashes), requirement
    assert "://" not in LOCK and "--index" not in LOCK


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(9, 16) if f"3.{minor}" in supported] == list(PYTHONS)
    prefix = "Programming Language :: Python :: 3."
    assert [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith(prefix)] == list(PYTHONS)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["quick"]["strategy"]["matrix"]["python"] == list(PYTHONS)


def test_the_least_snakemake_is_the_pinned_one_or_older() -> None:
    (least,) = re.findall(r'^min_version\("([\d.]+)"\)$', (ROOT / "Snakefile").read_text(encoding="utf-8"), re.M)
    assert Version(least) <= Version(pins()["snakemake"])
