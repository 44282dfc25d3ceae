"""What lies in a results folder, how large it is, and what of it nothing needs any more."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from persona.operations.runs import Run, find_runs
from persona.operations.status import table
from persona.units import human_size


@dataclass(frozen=True)
class Item:
    """Files or folders of one kind, and why they are kept or may go."""

    of: str
    paths: tuple[Path, ...]
    size: int
    goes: str
    note: str


# Nothing needs it; a training of earlier settings, which would have to be done again.
SAFE, OLD, KEPT = "yes", "old", ""
# Paths, whether they may go, and why.
Kind = tuple[tuple[Path, ...], str, str]
LOGS, ANEW = "logs and notes", "made anew from the raw data where it is missing"


def list_items(results: Path) -> list[Item]:
    """All that lies below `results`, models first, each byte once though hard links may show it twice."""
    seen: set[tuple[int, int]] = set()
    runs = find_runs(results)
    datasets = sorted({run.results for run in runs} | {file.parent for file in results.rglob("ingest.json")})
    items = []
    for dataset in datasets:
        kinds: list[Kind] = [((model,), KEPT, "a trained model") for model in sorted(dataset.glob("models/*/*/*"))]
        for run in (run for run in runs if run.results == dataset):
            kinds += _kinds(run, [other for other in runs if other.path.parent == run.path.parent])
        others = [path for path in sorted(dataset.iterdir()) if path.name not in ("models", "runs")]
        kinds += [((path,), KEPT, ANEW) for path in others if path.is_dir()]
        kinds.append((tuple(path for path in others if path.is_file()), KEPT, ANEW))
        items += [_item(dataset, *kind, seen) for kind in kinds if kind[0]]
    return [item for item in items if item.size]


def _item(dataset: Path, paths: tuple[Path, ...], goes: str, note: str, seen: set[tuple[int, int]]) -> Item:
    common = paths[0] if len(paths) == 1 else paths[0].parent
    of = str(Path(dataset.name) / common.relative_to(dataset))
    return Item(of, paths, sum(_size(path, seen) for path in paths), goes, note)


def _kinds(run: Run, versions: list[Run]) -> list[Kind]:
    """What a training's folder holds; `versions` are the trainings beside it."""
    if run.may_be_training:
        return [((run.path,), KEPT, "trains now, or did in the last two hours")]
    if run.set_aside:
        return [((run.path,), OLD, "set aside when its data or recipe changed; found again when that is undone")]
    if any(other.finished and other.version > run.version for other in versions):
        return [((run.path,), OLD, "an older version of a recipe that is trained")]
    return _kinds_at_rest(run)


def _kinds_at_rest(run: Run) -> list[Kind]:
    latest = run.path / "latest.json"
    newest = json.loads(latest.read_text(encoding="utf-8"))["tag"] if latest.exists() else ""
    half = (SAFE, "not completely written")
    kinds: list[Kind] = []
    if run.finished:
        kinds += [((path,), SAFE, "training state of a finished training") for path in run.path.glob("checkpoints")]
    else:
        for path in sorted(run.path.glob("checkpoints/step_*")):
            kinds.append(((path,), *((KEPT, "its training goes on from it") if path.name == newest else half)))
    kinds += [((path,), *half) for path in run.path.glob(".best_epoch_*")]
    kinds += [((path,), KEPT, "the model is handed over from it") for path in run.path.glob("best_epoch_*")]
    large = ("checkpoints", "best_epoch_", ".best_epoch_")
    logs = tuple(path for path in sorted(run.path.iterdir()) if not path.name.startswith(large))
    return [*kinds, (logs, KEPT, LOGS)]


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes of what was not seen yet."""
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        try:
            status = file.lstat()
        except FileNotFoundError:  # a training that runs takes files away
            continue
        if stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        total += status.st_size
    return total


def storage_table(items: list[Item]) -> str:
    """A line for each item, as text, with the sums of what may go."""
    rows = [[human_size(item.size), item.goes, item.of, item.note] for item in items]
    sums = {goes: human_size(sum(i.size for i in items if i.goes == goes)) for goes in (SAFE, OLD)}
    total = human_size(sum(item.size for item in items))
    last = f"{total} in all; nothing needs {sums[SAFE]} of it, and {sums[OLD]} are old trainings"
    return f"{table(['size', 'may go', 'what', 'why'], rows)}\n{last}"


def delete(items: list[Item], old: bool) -> str:
    """Delete what nothing needs, and `old` trainings if told to; say what it was."""
    gone = [item for item in items if item.goes == SAFE or (old and item.goes == OLD)]
    for path in (path for item in gone for path in item.paths):
        shutil.rmtree(path)
    return "\n".join([f"deleted {item.of}" for item in gone] + [f"{human_size(sum(i.size for i in gone))} freed"])
