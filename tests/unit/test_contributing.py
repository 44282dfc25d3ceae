"""What CONTRIBUTING.md says is there, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from persona.ingestion import formats
from persona.ingestion.formats import Format
from persona.prompts import load_style
from tests.ingesting import ingested

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(section: str, language: str) -> str:
    """The first code block of a section."""
    _, _, after = TEXT.partition(f"### {section}\n")
    return after.split(f"```{language}\n")[1].split("```")[0]


def test_every_path_is_there() -> None:
    paths = set(re.findall(r"\b(?:src|workflow|config|tests|docs)/[\w/]+\.\w+", TEXT)) - {"config/prompts/short.yaml"}
    assert len(paths) > 15
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", TEXT)) <= targets


def test_the_example_of_a_format_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("example")
    exec(example("A format of raw data", "python"), module.__dict__)
    form = Format(module.read, module.recognises, "lines of four fields")
    monkeypatch.setitem(formats.FORMATS, "example", form)
    (tmp_path / "raw.tsv").write_text("user\titem\tday\ttext\na\tfilm\t2020-01-02\tgood\na\tfilm\tgood\n")
    tables = ingested(tmp_path / "raw.tsv", "example")
    assert tables.interactions["text"].to_list() == ["good"]
    assert tables.rejects["row"].to_list() == [3]


def test_the_example_of_a_style_is_a_style(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(example("A prompt style", "yaml"), encoding="utf-8")
    assert [section.part for section in load_style(tmp_path / "short.yaml").sections] == ["history", "always", "always"]
