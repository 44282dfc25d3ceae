"""What lies in a results folder, how large it is, and what of it nothing needs any more."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from persona.artefacts import human_size
from persona.operations.runs import Run, find_runs
from persona.operations.status import table


@dataclass(frozen=True)
class Item:
    """Files or folders of one kind, and why they are kept or may go."""

    of: str
    paths: tuple[Path, ...]
    size: int
    deletable: bool
    note: str


# Paths, whether they may go, and why.
Kind = tuple[tuple[Path, ...], bool, str]
LOGS, ANEW = "logs and notes", "made anew from the raw data where it is missing"


def list_items(results: Path) -> list[Item]:
    """All that lies below `results`, models first, each byte once though hard links may show it twice."""
    seen: set[tuple[int, int]] = set()
    runs = find_runs(results)
    datasets = sorted({run.results for run in runs} | {file.parent for file in results.rglob("ingest.json")})
    items = []
    for dataset in datasets:
        kinds: list[Kind] = [((model,), False, "a trained model") for model in sorted(dataset.glob("models/*/*/*"))]
        for run in (run for run in runs if run.results == dataset):
            kinds += _kinds(run, [other for other in runs if other.path.parent == run.path.parent])
        others = [path for path in sorted(dataset.iterdir()) if path.name not in ("models", "runs")]
        kinds += [((path,), False, ANEW) for path in others if path.is_dir()]
        kinds.append((tuple(path for path in others if path.is_file()), False, ANEW))
        items += [_item(dataset, paths, deletable, note, seen) for paths, deletable, note in kinds if paths]
    return [item for item in items if item.size]


def _item(dataset: Path, paths: tuple[Path, ...], deletable: bool, note: str, seen: set[tuple[int, int]]) -> Item:
    common = paths[0] if len(paths) == 1 else paths[0].parent
    of = str(Path(dataset.name) / common.relative_to(dataset))
    return Item(of, paths, sum(_size(path, seen) for path in paths), deletable, note)


def _kinds(run: Run, versions: list[Run]) -> list[Kind]:
    """What a training's folder holds; `versions` are the trainings beside it."""
    if run.in_use:
        return [((run.path,), False, "training now, or wrote in the last 10 minutes")]
    if run.set_aside:
        return [((run.path,), True, "set aside when its data or recipe changed")]
    if any(other.finished and other.version > run.version for other in versions):
        return [((run.path,), True, "an older version of a recipe that is trained")]
    return _kinds_at_rest(run)


def _kinds_at_rest(run: Run) -> list[Kind]:
    latest = run.path / "latest.json"
    newest = json.loads(latest.read_text(encoding="utf-8"))["tag"] if latest.exists() else ""
    kinds: list[Kind] = []
    for checkpoint in sorted(run.path.glob("checkpoints/*")):
        if run.finished:
            kinds.append(((checkpoint,), True, "training state of a finished training"))
        elif checkpoint.name == newest:
            kinds.append(((checkpoint,), False, "its training goes on from it"))
        else:
            kinds.append(((checkpoint,), True, "not completely written"))
    kinds += [((path,), True, "not completely written") for path in run.path.glob(".best_epoch_*")]
    kinds += [((path,), False, "the model is handed over from it") for path in run.path.glob("best_epoch_*")]
    large = ("checkpoints", "best_epoch_", ".best_epoch_")
    logs = tuple(path for path in sorted(run.path.iterdir()) if not path.name.startswith(large))
    return [*kinds, (logs, False, LOGS)]


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes of what was not seen yet."""
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        status = file.lstat()
        if file.is_dir() or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        total += status.st_size
    return total


def storage_table(items: list[Item]) -> str:
    """A line for each item, as text, with the sum of what may be deleted."""
    rows = [[human_size(item.size), "yes" if item.deletable else "", item.of, item.note] for item in items]
    free = sum(item.size for item in items if item.deletable)
    total = f"{human_size(sum(item.size for item in items))} in all, {human_size(free)} of it may be deleted"
    return f"{table(['size', 'may go', 'what', 'why'], rows)}\n{total}"


def delete(items: list[Item]) -> str:
    """Delete what may go; say what it was."""
    gone = [item for item in items if item.deletable]
    for path in (path for item in gone for path in item.paths):
        shutil.rmtree(path)
    return "\n".join([f"deleted {item.of}" for item in gone] + [f"{human_size(sum(i.size for i in gone))} freed"])
