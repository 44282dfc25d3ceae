"""Two stages with all their rows, small enough to be made in memory."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from persona.evaluation.claims import claim
from persona.evaluation.comparison import compare
from persona.evaluation.metrics.summary import baseline_metrics, stage_metrics
from persona.evaluation.settings import Contrast
from persona.reporting.evidence import Evidence
from persona.reporting.stages import Stage, Untrained
from persona.tables import schemas

USERS, CANDIDATES = 40, 4


@pytest.fixture(scope="session")
def targets() -> pl.DataFrame:
    return make_targets()


def make_targets() -> pl.DataFrame:
    """One target per user, in blocks of four."""
    ids = range(USERS)
    return pl.DataFrame(
        {
            "interaction_id": ids,
            "user_id": [f"u{n:02}" for n in ids],
            "item_id": [f"i{n // CANDIDATES}" for n in ids],
            "cohort": "test",
            "rating": [1.0 + n % 5 for n in ids],
            "text": [f"text {n} & more" for n in ids],
            "names_star": False,
            "n_history": [n % 3 for n in ids],
            "n_context": 0,
            "history_mean": [3.0 if n % 3 else None for n in ids],
            "block": [n // CANDIDATES for n in ids],
            "floor_text": "another text",
            "ceiling_text": "text of the same user",
        },
        schema_overrides=schemas.TARGETS.columns,
    )


def scores(targets: pl.DataFrame, gap: float) -> pl.DataFrame:
    """Every impostor's prompt costs `gap` nats."""
    nll = np.random.default_rng(0).normal(20, 3, targets.height) - gap
    ids = targets["interaction_id"].to_list()
    others = [[m for m in ids if m // CANDIDATES == n // CANDIDATES and m != n] for n in ids]
    return targets.select("interaction_id", "user_id", "item_id", "cohort").with_columns(
        n_characters=pl.lit(10, pl.Int32),
        n_tokens=pl.lit(11, pl.Int32),
        nll=pl.Series(nll),
        impostor_ids=pl.Series(others),
        nll_impostors=pl.Series([[float(value + gap)] * 3 for value in nll]),
        nll_empty=pl.Series(nll + 2 * gap),
        stars=pl.Series([[0.2] * 5] * targets.height),
        stars_trained=pl.lit(False),
    )


def make_stage(targets: pl.DataFrame, name: str, gap: float, sample: str) -> Stage:
    rows = scores(targets, gap)
    written = pl.concat(
        [
            targets.select("interaction_id", "user_id", "item_id").with_columns(
                method=pl.lit(method),
                draw=pl.lit(0, pl.Int32),
                text=pl.lit(f"{method} <b>text"),
                stop_reason=pl.lit("end"),
                written_by=pl.lit("transformers 1.0"),
            )
            for method in ("greedy", "sample")
        ]
    )
    prompts = targets.select("interaction_id", prompt=pl.lit("[USER]"))
    metrics = stage_metrics([rows], written, targets, prompts, ["a training text"], CANDIDATES)
    guesses = targets.select("interaction_id", method=pl.lit("damped_bias"), rating=pl.lit(3.0))
    # As read from JSON, where keys are text.
    for kind in metrics["copying"].values():
        kind["curve"] = {str(length): share for length, share in kind["curve"].items()}
    return Stage(
        name=name, sample=sample, ablation="history", recipe="tiny", parts=frozenset({"history"}),
        max_samples_per_user=2, model="tiny", base_model="models/tiny", prompt_style="detailed", n_seeds=1,
        metrics=metrics, untrained=Untrained(metrics, rows, written),
        seeds=[rows], scores=rows, generations=written, prompts=prompts,
        manifest={
            "counts": {"train_samples": int(100 * gap) + 50, "tokens": 5, "epoch": 1, "global_step": 3, "seconds": 9.5,
                       "loading_seconds": 4.0},
            "parameters": {"learning_rate": 1e-3, "samples_per_step": 32, "max_epochs": 4, "lora": None},
            "versions": {"torch": "2.13.0"}, "hardware": "1 x A Card", "finished": "2026-11-26T05:00:00+00:00",
            "commit": "1953a857c37a",
        },
        log=[
            {"type": "step", "step": 1, "loss": 2.0},
            {"type": "val", "step": 1, "val_loss": 1.5},
        ],
        plan={"hours_per_epoch": 0.01, "phases": {"at_most": {
            "epochs": 4.0, "seconds": {"loading": 5.0, "steps": 40.0, "scoring": 2.0}}}},
        evaluation_seconds={"scoring": 3.0},
        claim=claim([rows], rows.with_columns(nll=pl.lit(0.0), nll_impostors=pl.Series([[0.0] * 3] * USERS)), guesses,
                    targets, CANDIDATES),
    )  # fmt: skip


@pytest.fixture(scope="session")
def evidence(targets: pl.DataFrame) -> Evidence:
    stages = [make_stage(targets, "quick", 0.0, "two"), make_stage(targets, "history", 2.0, "all")]
    authors = stages[0].scores
    guesses = targets.select("interaction_id", "user_id", "item_id", method=pl.lit("damped_bias"), rating=pl.lit(3.0))
    written = stages[0].generations.with_columns(method=pl.lit("commonest"))
    written = written.unique("interaction_id", keep="first", maintain_order=True)
    ids = targets["interaction_id"].to_list()
    baselines = baseline_metrics(authors, authors, guesses, written, targets, ids, CANDIDATES)
    contrasts = compare(
        {stage.name: stage.seeds for stage in stages}, [Contrast(stage="history", against="quick", metric="swap_gap")]
    )
    counts = {"rows": 42, "kept": 40, "rejected": 2, "reasons": {"no date": 2}, "users": 40, "items": 10}
    return Evidence(
        stages,
        baselines,
        targets,
        ("ngram", authors),
        guesses,
        contrasts,
        CANDIDATES,
        None,
        "dmsc",
        {"i0": "A film & more"},
        counts | {"left_out": 7},
    )
