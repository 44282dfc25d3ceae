"""The model card of a stage, `README.md` in `model/`: what it was trained on, its figures, how to prompt it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from persona import study
from persona.evaluation.comparison import NLL, difference
from persona.files import MODEL_CARD, write_text
from persona.prompts import outline
from persona.reporting.evidence import Evidence
from persona.reporting.stages import Stage

NAMES = {
    "swap_gap": "the swap gap",
    "author": "how much more often it finds the author than the better of two free baselines (TF-IDF, n-grams)",
    "rating": "how much smaller its squared error of stars is than that of the user's and the item's averages",
}


def card(evidence: Evidence, stage: Stage, described: study.Stage) -> str:
    """The card as Markdown. It names no user and shows no text of the data.

    Args:
        described: the stage as the workflow described it.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    recipe = stage.manifest["parameters"]
    parts = [part for part in ("profile", "history", "context") if part in stage.parts]
    return environment.get_template("card.md.j2").render(
        dataset=evidence.dataset,
        stage=stage,
        base_model=_base_model_name(stage, described),
        is_adapter=bool(recipe["lora"]) and (described.trained() / "model" / "adapter_config.json").is_file(),
        base_model_id=stage.base_model.partition("@")[0] if described.starts_from_hub else None,
        caution=evidence.caution,
        shown=", ".join(parts) or "nothing of the user but a hash",
        per_user=f"up to {stage.max_samples_per_user}" if stage.max_samples_per_user else "all",
        recipe=(
            f"`{stage.recipe}`: learning rate {recipe['learning_rate']:g}, {recipe['samples_per_step']} samples a "
            f"step, epochs: {stage.counts['epoch']}, {stage.counts['global_step']:,} steps"
            + (", LoRA" if recipe["lora"] else "")
        ),
        finished=str(stage.manifest.get("finished", "not known"))[:16].replace("T", " "),
        versions=", ".join(f"{name} {version}" for name, version in stage.manifest["versions"].items()),
        counts=stage.metrics["counts"],
        measures=_measures(evidence, stage),
        claim=_claim(stage),
        limits=_limits(evidence, stage),
        outline=outline(described.spec),
        trains_stars=described.spec.style.trains_stars,
    )


def _base_model_name(stage: Stage, described: study.Stage) -> str:
    """The hub id with its revision; of a folder its last part, because its path says nothing to others."""
    if described.is_tiny:
        return stage.model
    return stage.base_model if described.starts_from_hub else Path(stage.base_model).name


def place_card(text: str, model: Path) -> None:
    """Put a card into the folder of its model, if the model is there and has no such card yet."""
    file = model / MODEL_CARD
    if not model.is_dir():
        return
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(text, file)


def _measures(evidence: Evidence, stage: Stage) -> list[tuple[str, str, str]]:
    """Name, value and the untrained model's value."""
    own, before = stage.metrics, stage.untrained.metrics
    learned = difference(stage.seeds, [stage.untrained.scores], NLL, fixed=True).as_json()
    rows = [
        (
            "test NLL (nats a character, lower is better)",
            _figure(own["likelihood"]["nll"]),
            _figure(before["likelihood"]["nll"]),
        ),
        ("test NLL minus that before training", _figure(learned, "+.3f"), ""),
    ]
    if stage.shows_user:
        rows.append(
            (
                "swap gap: NLL with other users in the prompt minus that with the own (higher is better)",
                _figure(own["likelihood"].get("swap_gap"), "+.3f"),
                _figure(before["likelihood"].get("swap_gap"), "+.3f"),
            )
        )
        rows.append(
            (
                f"author found among {evidence.candidates} users (chance {1 / evidence.candidates:.0%})",
                _figure(own["likelihood"].get("acc")),
                _figure(before["likelihood"].get("acc")),
            )
        )
    if own["stars"]["all"].get("rmse"):
        rows.append(
            (
                "root mean squared error of the expected star"
                + ("" if stage.is_given_stars else " (a zero-shot probe: it was not trained to give stars)"),
                _figure(own["stars"]["all"]["rmse"], ".2f"),
                _figure(before["stars"]["all"].get("rmse"), ".2f"),
            )
        )
    texts = "chrF of the greedy text against the real one (0 to 1)"
    rows.append((texts, _figure(own["texts"]["greedy"]["chrf"]), _figure(before["texts"]["greedy"]["chrf"])))
    return rows


def _figure(value: dict[str, Any] | None, form: str = ".3f") -> str:
    if value is None or value["value"] is None or not np.isfinite(value["value"]):
        return "not measured"
    figure = f"{value['value']:{form}}"
    return figure if value["low"] is None else f"{figure} [{value['low']:{form}}, {value['high']:{form}}]"


def _claim(stage: Stage) -> str:
    if not stage.shows_user:
        return "Its prompts show nothing of the user, so nothing is said of how personal it is."
    conditions = "\n".join(f"- {c.mark} {NAMES[c.name]}" for c in stage.claim.conditions if c.advantage is not None)
    can = "can" if stage.claim.allowed else "**cannot**"
    return (
        f"By these figures it {can} be said to write like a particular user. Of texts with earlier ones, "
        f"each of these must have an interval above 0 (✓ it has, ✗ it has not, · not computable):\n\n{conditions}"
    )


def _limits(evidence: Evidence, stage: Stage) -> list[str]:
    exact = stage.metrics["copying"]["generated"]["exact"]
    limits = [
        "It was measured on this data set alone.",
        f"Of the greedy texts that it wrote for {stage.metrics['counts']['generated']:,} test texts, {exact:.1%} "
        "are, word for word, texts that it was trained on. It was trained on what people wrote, and may repeat it.",
        "What it writes is not what the user wrote or thinks. Do not present it as such.",
    ]
    if stage.is_given_stars:
        limits.append(
            "Its NLL is that of the text given the true stars, and cannot be compared with models without stars."
        )
    shown = (stage.metrics["likelihood"].get(name) for name in ("nll", "swap_gap", "acc"))
    notes = {value["note"] for value in shown if value and value["note"]}
    return limits + [f"Of some figures there is {note}." for note in sorted(notes)]
