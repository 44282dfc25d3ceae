"""A run folder belongs to one training at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from persona.errors import PersonaError
from persona.training.checkpoints import RunFolder, digest, link_tree
from persona.training.logs import ENDED, JSON_LOG


def test_the_same_training_goes_on_in_its_folder(tmp_path: Path) -> None:
    RunFolder(tmp_path / "v1").claim({"seed": 1})
    RunFolder(tmp_path / "v1").claim({"seed": 1, "a_key_of_a_later_version": 2})


def begin(folder: Path, fingerprint: dict[str, Any]) -> None:
    """Claim a folder and log a step."""
    RunFolder(folder).claim(fingerprint)
    (folder / JSON_LOG).write_text("{}\n")


def test_an_unfinished_training_of_something_else_is_refused_with_what_differs(tmp_path: Path) -> None:
    begin(tmp_path / "v1", {"seed": 1, "learning_rate": 0.1})
    (tmp_path / "v1" / ENDED).write_text("why it ended")
    with pytest.raises(PersonaError, match=r"\(learning_rate: was 0\.1, is 0\.2\)"):
        RunFolder(tmp_path / "v1").claim({"seed": 1, "learning_rate": 0.2})
    assert (tmp_path / "v1" / ENDED).read_text() == "why it ended"


def test_a_training_that_made_no_step_is_replaced(tmp_path: Path) -> None:
    """Such as one whose settings were refused: to undo the change would lead to that refusal again."""
    RunFolder(tmp_path / "v1").claim({"seed": 1, "learning_rate": 0.1})
    (tmp_path / "v1" / ENDED).write_text("learning_rate is not allowed")
    begin(tmp_path / "v1", {"seed": 1, "learning_rate": 0.2})
    assert not (tmp_path / "v1" / ENDED).exists()
    RunFolder(tmp_path / "v1").claim({"seed": 1, "learning_rate": 0.2})
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_a_training_from_before_there_was_a_choice_of_order_was_by_sample(tmp_path: Path) -> None:
    begin(tmp_path / "v1", {"seed": 1})
    RunFolder(tmp_path / "v1").claim({"seed": 1, "batch_by": "sample"})
    with pytest.raises(PersonaError, match=r"\(batch_by: was sample, is user\)"):
        RunFolder(tmp_path / "v1").claim({"seed": 1, "batch_by": "user"})


def test_a_finished_training_is_set_aside_and_found_again(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = RunFolder(tmp_path / "v1")
        folder.claim({"seed": seed})
        assert not folder.finished
        folder.finish({"best_epoch": seed})
        del folder  # lets go of the lock
    again = RunFolder(tmp_path / "v1")
    again.claim({"seed": 1})
    assert again.finished and again.summary() == {"best_epoch": 1}


def test_a_change_that_is_undone_before_its_training_is_finished_finds_the_finished_one(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "v1")
    first.claim({"seed": 1})
    first.finish({"best_epoch": 1})
    del first
    RunFolder(tmp_path / "v1").claim({"seed": 2})
    again = RunFolder(tmp_path / "v1")
    again.claim({"seed": 1})
    assert again.summary() == {"best_epoch": 1}
    del again
    unfinished = RunFolder(tmp_path / "v1")
    unfinished.claim({"seed": 2})
    assert not unfinished.finished


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "v1")
    first.claim({"seed": 1})
    with pytest.raises(PersonaError, match="another process is training in"):
        RunFolder(tmp_path / "v1").claim({"seed": 1})
    assert not first.finished


def test_a_handed_over_model_can_be_deleted_without_losing_the_training(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights").write_text("w")
    link_tree(tmp_path / "best", tmp_path / "model")
    (tmp_path / "model" / "weights").unlink()
    assert (tmp_path / "best" / "weights").read_text() == "w"


def test_a_closed_folder_can_be_claimed_again_by_the_same_process(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "v1")
    first.claim({"seed": 1})
    first.close()
    RunFolder(tmp_path / "v1").claim({"seed": 1})


def test_a_training_keeps_the_name_that_older_versions_gave_it() -> None:
    """A training that was set aside is found by it. Settings of later versions count if they are not as they were."""
    as_it_was = {"seed": 1, "lora": None, "validate_every_steps": None}
    assert digest(as_it_was) == "9bcdb40ecf91"
    assert digest(as_it_was | {"cpu_dtype": "float32", "expert_parallel": 1}) == "9bcdb40ecf91"
    others = [{"cpu_dtype": "bfloat16"}, {"expert_parallel": 2}, {"lora": 1}]
    assert len({digest(as_it_was | other) for other in [{}, *others]}) == 4
