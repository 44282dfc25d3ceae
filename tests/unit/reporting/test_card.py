"""The model card has the report's figures and says how to prompt the model; it names no user."""

from __future__ import annotations

import json
from pathlib import Path

from persona.files import file_digest
from persona.reporting.card import card, place_card
from persona.reporting.evidence import Evidence
from tests.unit.studies import stage, write_study


def test_a_card_has_the_figures_with_intervals_the_limits_and_the_prompt(evidence: Evidence, tmp_path: Path) -> None:
    described = write_study(tmp_path, {"history": stage("history")}).stages["history"]
    text = card(evidence, evidence.stages[1], described)
    nll = evidence.stages[1].metrics["likelihood"]["nll"]
    assert f"| {nll['value']:.3f} [{nll['low']:.3f}, {nll['high']:.3f}] |" in text
    assert "| training samples | 250 texts, up to 2 of each user (sample `all`) |" in text
    assert "On 40 test texts of 40 users, none of which it was trained on" in text
    assert "it can be said to write like a particular user." in text and "- ✓ the swap gap" in text
    outline = text.split("```text\n")[1].split("```")[0]
    assert outline.startswith("[USER_HASH={user_id}]\n\n[USER_PROFILE]\n[USER_{field}={value}]\n...\n\n[HISTORY]\n")
    assert outline.endswith("[TASK]\n预测用户会写的影评\n\n[MOVIE]\n{title}（{genres}）\n\n影评：\n")
    assert "\nbase_model: models/tiny\n" in text
    # A base model in a folder of this machine, of which the manifest has a digest.
    (described.trained() / "manifest.json").write_text(json.dumps({"parameters": {"base_model": "d" * 64}}))
    assert "base_model" not in card(evidence, evidence.stages[1], described)
    for row in evidence.targets.iter_rows(named=True):
        assert row["user_id"] not in text and row["text"] not in text


def test_a_stage_that_is_not_personal_says_so(evidence: Evidence, tmp_path: Path) -> None:
    described = write_study(tmp_path, {"quick": stage("quick")}).stages["quick"]
    assert "it **cannot** be said to write like a particular user" in card(evidence, evidence.stages[0], described)


def test_a_card_does_not_make_a_model_another_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    digest = file_digest(tmp_path)
    place_card("# a card", tmp_path)
    placed = (tmp_path / "README.md").stat().st_mtime_ns
    place_card("# a card", tmp_path)
    place_card("# a card", tmp_path / "deleted")
    assert not (tmp_path / "deleted").exists()
    assert file_digest(tmp_path) == digest
    assert (tmp_path / "README.md").stat().st_mtime_ns == placed
