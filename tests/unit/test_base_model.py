"""Where a base model is, from its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona.base_model import source
from persona.errors import PersonaError
from persona.modeling.loading import load_config


def test_a_hub_id_may_have_a_revision() -> None:
    assert source("org/name@3f2a") == {"pretrained_model_name_or_path": "org/name", "revision": "3f2a"}
    assert source("org/name") == {"pretrained_model_name_or_path": "org/name"}


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "model@home").mkdir()
    assert source(str(tmp_path / "model@home")) == {"pretrained_model_name_or_path": str(tmp_path / "model@home")}


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PersonaError, match="no model could be loaded; without a network, download it and set") as error:
        load_config(str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)
