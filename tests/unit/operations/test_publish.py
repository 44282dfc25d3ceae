"""A model is listed, and sent only when that is asked: to a hub that a small server stands for."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from persona.__main__ import main
from persona.study import Study
from tests.unit.studies import stage, write_model, write_study


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does to the making of a repository and to a commit, and keeps what it got."""

    requests: ClassVar[list[tuple[str, Any]]] = []
    is_private: ClassVar[bool] = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        type(self).requests.append((self.path, lines))
        answer: dict[str, Any] = {"url": f"http://{self.headers['Host']}/me/films"}
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in lines[0]["files"]]
            answer = {"files": files}
        if "/commit/" in self.path:
            answer = {"commitUrl": f"http://{self.headers['Host']}/me/films/commit/1", "commitOid": "1"}
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer({"id": "me/films", "sha": "1", "siblings": [], "tags": [], "private": type(self).is_private})

    def _answer(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    Hub.requests, Hub.is_private = [], True
    yield Hub
    server.shutdown()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path / "results/dmsc", {"history": stage("history")})
    model = write_model(study, "history")
    inner = {"_name_or_path": "/home/li/models/small", "hidden_size": 8}
    (model / "config.json").write_text(json.dumps({**inner, "text_config": inner, "file": "/home/li/map.json"}))
    # A vocabulary has words that look like paths.
    (model / "tokenizer.json").write_text(json.dumps({"model": {"unk_token": "/s"}}))
    (model / "model.safetensors").write_bytes(b"weights")
    (model / ".snakemake_timestamp").touch()
    return study


def publish(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["persona", "publish", "--repo", "me/films", *arguments])
    try:
        main()
    except SystemExit as end:
        return str(end.code)
    return capsys.readouterr().out


def test_a_model_is_sent_only_when_asked_and_without_paths(
    study: Study, hub: type[Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = study.stages["history"].model
    assert "it has no model card yet; make it with the figures: snakemake report" in publish(monkeypatch, capsys)
    (model / "README.md").write_text("# card")
    listed = publish(monkeypatch, capsys)
    assert "for the private repository me/films" in listed and "nothing was sent; add --push to send it" in listed
    assert hub.requests == []
    publish(monkeypatch, capsys, "--push")
    sent = dict(hub.requests)
    assert sent["/api/repos/create"][0]["visibility"] == "private", sent
    commit = next(lines for path, lines in hub.requests if "/commit/" in path)
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in commit if line["key"] == "file"
    }
    assert set(files) == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert json.loads(files["tokenizer.json"]) == {"model": {"unk_token": "/s"}}
    assert json.loads(files["config.json"]) == {"hidden_size": 8, "text_config": {"hidden_size": 8}}
    assert files["model.safetensors"] == b"weights"
    assert json.loads((model / "config.json").read_text())["_name_or_path"]  # the model itself stays as it was
    assert sorted(path.name for path in model.parent.iterdir()) == ["manifest.json", "model", "stage.json"]


def test_what_is_to_be_private_is_not_sent_to_a_public_repository(
    study: Study, hub: type[Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (study.stages["history"].model / "README.md").write_text("# card")
    hub.is_private = False
    assert "me/films is public; choose another one, or say so with --public" in publish(monkeypatch, capsys, "--push")
    assert not any("/commit/" in path for path, _ in hub.requests)


def test_an_adapter_names_a_base_model_that_others_can_find(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = study.stages["history"].model
    (model / "README.md").write_text("# card")
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    # Of a base model in a folder the manifest has a digest, and the folder may be gone by now.
    (model.parent / "manifest.json").write_text(json.dumps({"parameters": {"base_model": "d" * 64}}))
    assert "the adapter's base model is the folder" in publish(monkeypatch, capsys)
    assert "allowed is the hub id of a model" in publish(monkeypatch, capsys, "--base-model", str(tmp_path))
    assert "adapter_config.json" in publish(monkeypatch, capsys, "--base-model", "maker/small")


def test_a_vocabulary_that_was_learned_from_texts_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path / "results/dmsc", {"history": stage("history", is_tiny=True)})
    write_model(study, "history")
    assert "whose vocabulary comes from the texts, so it holds names" in publish(monkeypatch, capsys)
