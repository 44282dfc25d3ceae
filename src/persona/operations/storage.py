"""List what is in a results folder, its size, and what can be deleted."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from persona.operations.runs import Run, find_runs
from persona.units import human_size


@dataclass(frozen=True)
class Item:
    """Files or folders of one kind, with their size in bytes and whether and why they may be deleted."""

    name: str
    paths: tuple[Path, ...]
    size: int
    deletable: str
    reason: str


# `SAFE` is not needed any more. `OLD` is a training with earlier settings: going back to them would need it again.
SAFE, OLD, KEPT = "yes", "old", ""
# Paths, whether they may be deleted, and why.
Kind = tuple[tuple[Path, ...], str, str]
LOGS, REBUILT = "logs and records of the training", "rebuilt from the raw data if it is missing"


def list_items(results: Path) -> list[Item]:
    """Everything below `results`, models first. A file with several hard links is counted once."""
    seen: set[tuple[int, int]] = set()
    runs = find_runs(results)
    datasets = sorted({run.results for run in runs} | {file.parent for file in results.rglob("ingest.json")})
    items = []
    for dataset in datasets:
        kinds: list[Kind] = [((model,), KEPT, "a trained model") for model in sorted(dataset.glob("models/*/*/*"))]
        for run in (run for run in runs if run.results == dataset):
            kinds += _kinds(run, [other for other in runs if other.path.parent == run.path.parent])
        others = [path for path in sorted(dataset.iterdir()) if path.name not in ("models", "runs")]
        kinds += [((path,), KEPT, REBUILT) for path in others if path.is_dir()]
        kinds.append((tuple(path for path in others if path.is_file()), KEPT, REBUILT))
        items += [_item(dataset, *kind, seen) for kind in kinds if kind[0]]
    return [item for item in items if item.size]


def _item(dataset: Path, paths: tuple[Path, ...], deletable: str, reason: str, seen: set[tuple[int, int]]) -> Item:
    common = paths[0] if len(paths) == 1 else paths[0].parent
    name = str(Path(dataset.name) / common.relative_to(dataset))
    return Item(name, paths, sum(_size(path, seen) for path in paths), deletable, reason)


def _kinds(run: Run, versions: list[Run]) -> list[Kind]:
    """What the folder of a training holds; `versions` are all trainings of the same recipe on the same data."""
    if run.may_be_training:
        return [((run.path,), KEPT, "training now, or was in the last two hours")]
    if run.set_aside:
        return [((run.path,), OLD, "set aside when its data or recipe changed; reused if that is undone")]
    if any(other.finished and other.version > run.version for other in versions):
        return [((run.path,), OLD, "an older version; a newer one has finished")]
    return _kinds_at_rest(run)


def _kinds_at_rest(run: Run) -> list[Kind]:
    latest = run.path / "latest.json"
    newest = json.loads(latest.read_text(encoding="utf-8"))["tag"] if latest.exists() else ""
    incomplete = (SAFE, "incomplete: its writing was interrupted")
    kinds: list[Kind] = []
    if run.finished:
        kinds += [((path,), SAFE, "checkpoints of a finished training") for path in run.path.glob("checkpoints")]
    else:
        for path in sorted(run.path.glob("checkpoints/step_*")):
            kinds.append(((path,), *((KEPT, "the training resumes from it") if path.name == newest else incomplete)))
    kinds += [((path,), *incomplete) for path in run.path.glob(".best_epoch_*")]
    kinds += [((path,), KEPT, "the exported model is linked to it") for path in run.path.glob("best_epoch_*")]
    large = ("checkpoints", "best_epoch_", ".best_epoch_")
    logs = tuple(path for path in sorted(run.path.iterdir()) if not path.name.startswith(large))
    return [*kinds, (logs, KEPT, LOGS)]


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes of the files below `path` that are not in `seen`, which is extended."""
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        try:
            status = file.lstat()
        except FileNotFoundError:  # a running training deletes files
            continue
        if stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        total += status.st_size
    return total


def storage_table(items: list[Item]) -> str:
    """One line per item and the totals, for a terminal."""
    rows = [[human_size(item.size), item.deletable, item.name, item.reason] for item in items]
    columns = ["size", "deletable", "path", "reason"]
    sums = {kind: human_size(sum(i.size for i in items if i.deletable == kind)) for kind in (SAFE, OLD)}
    total = human_size(sum(item.size for item in items))
    last = f"{total} in total; {sums[SAFE]} are not needed any more, and {sums[OLD]} are old trainings"
    return f"{tabulate([columns, *rows], tablefmt='plain', disable_numparse=True)}\n{last}"


def delete(items: list[Item], old: bool) -> str:
    """Delete the items that are not needed any more, and with `old` also old trainings; return what was deleted."""
    deleted = [item for item in items if item.deletable == SAFE or (old and item.deletable == OLD)]
    for path in (path for item in deleted for path in item.paths):
        shutil.rmtree(path)
    freed = human_size(sum(item.size for item in deleted))
    return "\n".join([*(f"deleted {item.name}" for item in deleted), f"{freed} freed"])
