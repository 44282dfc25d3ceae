"""Where a base model is, from its path."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from persona import base_model
from persona.base_model import source
from persona.errors import PersonaError
from persona.modeling.loading import load_config


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """A hub that hangs up on everyone; one entry per call."""
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        server.settimeout(0.1)
        done = threading.Event()

        def hang_up() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, caller = server.accept()
                    connection.close()
                    calls.append(caller)

        thread = threading.Thread(target=hang_up)
        thread.start()
        base_model.hub_answers.cache_clear()
        yield calls
        base_model.hub_answers.cache_clear()
        done.set()
        thread.join()


@pytest.mark.usefixtures("no_hub")
def test_a_hub_id_may_have_a_revision() -> None:
    from_the_cache = {"local_files_only": True}
    assert source("org/name@3f2a") == {"pretrained_model_name_or_path": "org/name", "revision": "3f2a"} | from_the_cache
    assert source("org/name") == {"pretrained_model_name_or_path": "org/name"} | from_the_cache


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "model@home").mkdir()
    assert source(str(tmp_path / "model@home")) == {"pretrained_model_name_or_path": str(tmp_path / "model@home")}


def test_a_model_that_is_not_there_is_one_line_after_one_call(no_hub: list[object]) -> None:
    """The hub's client by itself tries again for 23 seconds."""
    for _ in range(2):
        with pytest.raises(PersonaError, match="no model could be loaded; without a network, download it") as error:
            load_config("org/name")
        assert "\n" not in str(error.value)
    assert len(no_hub) == 1
