"""Puts a trained model on a hub: what is sent is prepared and listed first, and it is sent only when that is asked."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from persona.errors import PersonaError
from persona.files import MODEL_CARD, write_json
from persona.study import Stage

# Keys in which libraries note the folder that a model was loaded from.
PATHS = ("_name_or_path", "name_or_path")
ADAPTER = "adapter_config.json"
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def prepare(stage: Stage, repository: str, folder: Path, base_model: str | None) -> list[Path]:
    """Fill a folder with what is to be sent: the model and its card, without paths of this machine.

    Args:
        base_model: the hub id of an adapter's base model, where that was a folder.

    Returns:
        The files.

    Raises:
        PersonaError: the card is missing, the vocabulary was learned from people's texts, or an adapter's base model is
            a folder.
    """
    if not REPOSITORY.fullmatch(repository):
        raise PersonaError(f"--repo: got {repository}, allowed is OWNER/NAME of letters, digits, `-`, `_` and `.`")
    if stage.is_tiny:
        raise PersonaError(
            f"{stage.model}: its base model is a tiny one whose vocabulary comes from the texts, so it holds names "
            "and words of people; publish a model that starts from a published one"
        )
    if not (stage.model / MODEL_CARD).is_file():
        raise PersonaError(f"{stage.model}: it has no model card yet; make it with the figures: snakemake report")
    if base_model is not None and not (stage.model / ADAPTER).is_file():
        raise PersonaError(f"--base-model: {stage.model} is no adapter; leave it out")
    for file in sorted(stage.model.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        copy = folder / file.name
        settings = _settings_of(file)
        cleaned = _without_paths(settings)
        if file.name == ADAPTER:
            cleaned["base_model_name_or_path"] = _base_of_adapter(stage, base_model)
        if cleaned == settings:
            _link(file, copy)
        else:
            write_json(cleaned, copy)
    return sorted(folder.iterdir())


def _settings_of(file: Path) -> Any:
    """What a file of settings holds; None for other files, also for a vocabulary, whose words may look like paths.

    Raises:
        PersonaError: it is not JSON.
    """
    if file.suffix != ".json" or file.name in VOCABULARIES:
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PersonaError(f"{file}: not JSON; make the model again, or take the file away") from error


def _without_paths(settings: Any) -> Any:
    if isinstance(settings, dict):
        kept = {key: value for key, value in settings.items() if key not in PATHS and not _is_path(value)}
        return {key: _without_paths(value) for key, value in kept.items()}
    return [_without_paths(value) for value in settings] if isinstance(settings, list) else settings


def _is_path(value: Any) -> bool:
    """Whether a setting is the path of a file or folder of this machine."""
    return isinstance(value, str) and re.fullmatch(r"~?/\S+", value) is not None


def _base_of_adapter(stage: Stage, base_model: str | None) -> str:
    """The hub id of an adapter's base model.

    Raises:
        PersonaError: it was a folder, and its hub id is not given.
    """
    if base_model is not None and (Path(base_model).exists() or not REPOSITORY.fullmatch(base_model)):
        raise PersonaError(f"--base-model: got {base_model}, allowed is the hub id of a model, such as OWNER/NAME")
    if base_model is None and not stage.starts_from_hub:
        raise PersonaError(
            f"{stage.model}: the adapter's base model is the folder {stage.base_model}; name its hub id with "
            "--base-model"
        )
    return base_model or stage.base_model.partition("@")[0]


def _link(file: Path, copy: Path) -> None:
    """A hard link, because weights are large; a copy where the folder is on another file system."""
    try:
        copy.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, copy)


def push(folder: Path, repository: str, is_public: bool) -> str:
    """Send a folder to a model repository of the hub, which is made if it is not there; return its address.

    The client's own settings say which hub (HF_ENDPOINT) and as whom (HF_TOKEN, or `hf auth login`).

    Raises:
        PersonaError: the hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(repository, private=not is_public, exist_ok=True)
        # A repository that was there before keeps its own visibility.
        if not is_public and not api.repo_info(repository).private:
            raise PersonaError(f"{repository} is public; choose another one, or say so with --public")
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add model")
    except PersonaError:
        raise
    except Exception as error:  # of the client's library, whose classes change with its version
        text = " ".join(str(error).split())
        raise PersonaError(f"{repository}: it could not be sent ({type(error).__name__}: {text[:300]})") from error
    return str(made)
