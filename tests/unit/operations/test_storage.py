"""What `python -m persona disk` lists and deletes."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from persona.operations.storage import delete, list_items, storage_table
from tests.unit.operations.trainings import FACTORS, grow_old, train_a_little


def test_only_what_nothing_needs_is_deleted(results: Path) -> None:
    old, new = train_a_little(results, "v1", finished=True), train_a_little(results, "v2", finished=True)
    aside = train_a_little(results, "v1-0123456789ab")
    for run in (old, new, aside):
        grow_old(run)
    model = results / "dmsc" / "models" / FACTORS / "model"
    model.mkdir(parents=True)
    os.link(new / "best_epoch_1" / "model.safetensors", model / "model.safetensors")
    items = list_items(results)
    assert {item.name: item.deletable for item in items if item.deletable} == {
        f"dmsc/runs/{FACTORS}/v1": "old",
        f"dmsc/runs/{FACTORS}/v1-0123456789ab": "old",
        f"dmsc/runs/{FACTORS}/v2/checkpoints": "yes",
    }
    sizes = {item.name: item.size for item in items}
    assert sizes[f"dmsc/models/{FACTORS}"] == 500 and f"dmsc/runs/{FACTORS}/v2/best_epoch_1" not in sizes
    assert "dmsc/runs" in storage_table(items)
    assert delete(items, old=False).splitlines()[-1].endswith(" freed")
    assert old.exists() and aside.exists() and not (new / "checkpoints").exists()
    delete(list_items(results), old=True)
    assert not old.exists() and not aside.exists()
    assert (model / "model.safetensors").exists() and (new / "best_epoch_1" / "model.safetensors").exists()
    assert not [item for item in list_items(results) if item.deletable]


def test_an_unfinished_training_keeps_what_it_goes_on_from(results: Path) -> None:
    run = train_a_little(results)
    half = run / "checkpoints" / "step_25"
    half.mkdir()
    (half / "state.pt").write_bytes(bytes(10))
    grow_old(run)
    delete(list_items(results), old=True)
    assert (run / "checkpoints" / "step_20").exists() and not half.exists()


def test_what_trains_now_is_left_alone(results: Path) -> None:
    lately, held = train_a_little(results, "v1"), train_a_little(results, "v2")
    grow_old(held)
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        items = list_items(results)
    assert not [item for item in items if item.deletable]
    assert lately.exists()
