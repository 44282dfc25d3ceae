"""The stages side by side: one table, one page that needs no network."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl

from persona import artefacts
from persona.evaluation.statistics import nll_metrics, paired_difference
from persona.training.logs import read_log

matplotlib.use("svg")
from matplotlib import pyplot as plt

Stages = dict[str, dict[str, Any]]

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.3rem .7rem;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


def stage_table(stages: Stages) -> pl.DataFrame:
    """One row a stage. NLL is in nats per character; intervals are 95 %, from resampling users."""
    rows = []
    first = next(iter(stages.values()))
    reference = _scores(first["evaluation"])
    for name, stage in stages.items():
        counts = json.loads((Path(stage["training"]) / "manifest.json").read_text(encoding="utf-8"))["counts"]
        scores = _scores(stage["evaluation"])
        val, test = nll_metrics(scores, "val"), nll_metrics(scores, "test")
        untrained = nll_metrics(_scores(stage["untrained"]), "test")
        difference, low, high = paired_difference(scores, reference, "test")
        rows.append(
            {
                "stage": name,
                "sample": stage["sample"],
                "ablation": stage["ablation"],
                "samples": counts["train_samples"],
                "tokens_seen": counts["tokens"],
                "epochs": counts["epoch"],
                "seconds": counts["seconds"],
                "val_nll": val["nll_per_character"],
                "val_95": _interval(val),
                "test_nll": test["nll_per_character"],
                "test_95": _interval(test),
                "untrained_test_nll": untrained["nll_per_character"],
                "test_minus_first_stage": difference,
                "difference_95": f"{low:+.4f} to {high:+.4f}",
            }
        )
    return pl.DataFrame(rows)


def _scores(folder: str) -> pl.DataFrame:
    return artefacts.read_table(Path(folder) / "scores.parquet", artefacts.SCORES)


def _interval(metrics: dict[str, Any]) -> str:
    low, high = metrics["nll_per_character_95"]
    return f"{low:.4f} to {high:.4f}"


def page(stages: Stages, table: pl.DataFrame) -> str:
    """A self-contained HTML page."""
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Stages</title><style>{STYLE}</style><h1>What each stage learned</h1>"
        "<p>Negative log-likelihood (NLL) of unseen users' reviews, in nats per character: lower is better. All stages "
        "are scored on the same targets. Intervals are 95 %, from 10,000 resamples of users. The difference to the "
        "first stage is paired by target; it is below zero with confidence where its whole interval is.</p>"
        f"{_html_table(table)}<h2>Validation loss while training</h2>{_loss_curves(stages)}</html>\n"
    )


def _html_table(table: pl.DataFrame) -> str:
    def cells(values: tuple[Any, ...] | list[str], tag: str) -> str:
        texts = [f"{v:,.3f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else str(v) for v in values]
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    header = [name.replace("_", " ") for name in table.columns]
    return "<table>" + cells(header, "th") + "".join(cells(row, "td") for row in table.iter_rows()) + "</table>"


def _loss_curves(stages: Stages) -> str:
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for (name, stage), marker in zip(stages.items(), "osD^vPX*" * len(stages), strict=False):
        records = [r for r in read_log(Path(stage["training"]) / "train_log.jsonl") if r["type"] == "val"]
        axes.plot([r["step"] for r in records], [r["val_loss"] for r in records], marker=marker, label=name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("validation NLL (nats per token)")
    axes.legend()
    picture = io.StringIO()
    figure.savefig(picture, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = picture.getvalue()
    return text[text.index("<svg") :]
