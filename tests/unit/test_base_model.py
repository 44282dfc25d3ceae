"""Where a base model is, from its path."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from persona import base_model
from persona.base_model import missing_model, source
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


@pytest.mark.usefixtures("no_hub")
def test_a_mistyped_path_is_no_model_of_the_hub() -> None:
    for path in ("models/Qwen3-30B-A3", "data/models/qwen", "qwen 3"):
        assert f"{path}: there is no such model (" in str(missing_model(path))


@pytest.mark.usefixtures("no_hub")
def test_the_folder_that_was_meant_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "Qwen3-30B-A3B").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "there is no folder models/Qwen3-30B-A3 (did you mean models/Qwen3-30B-A3B?)" in str(
        missing_model("models/Qwen3-30B-A3")
    )


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    assert missing_model(str(tmp_path)) is None


def write_weights(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    save_file({"a": torch.zeros(100)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def test_whole_weights_are_accepted(tmp_path: Path) -> None:
    write_weights(tmp_path)
    assert source(str(tmp_path)) == {"pretrained_model_name_or_path": str(tmp_path)}


@pytest.mark.parametrize("size", [0, 5, 8, 50, -1])
def test_half_a_download_is_named(tmp_path: Path, size: int) -> None:
    file = write_weights(tmp_path)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(PersonaError, match=r"model\.safetensors: only a part of a file, .* bytes\); download it again"):
        source(str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    write_weights(tmp_path)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4000000000\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(PersonaError, match=f"{name}: this is git-lfs's pointer to the file; run `git lfs pull` in"):
        source(str(tmp_path))


def test_a_missing_file_of_several_is_named(tmp_path: Path) -> None:
    write_weights(tmp_path).rename(tmp_path / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        PersonaError, match=r"model-2\.safetensors: is missing, and model.safetensors.index.json names it"
    ):
        source(str(tmp_path))


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "model@home").mkdir()
    assert source(str(tmp_path / "model@home")) == {"pretrained_model_name_or_path": str(tmp_path / "model@home")}


def test_a_model_that_is_not_there_is_one_line_after_one_call(no_hub: list[object]) -> None:
    """The hub's client by itself tries again for 23 seconds."""
    for _ in range(2):
        with pytest.raises(PersonaError, match="no model could be loaded") as error:
            load_config("org/name")
        message = str(error.value)
        assert "\n" not in message
        for advice in ("no folder org/name", "hf download org/name --local-dir models/name", "HF_ENDPOINT", "OFFLINE"):
            assert advice in message
    assert len(no_hub) == 1
