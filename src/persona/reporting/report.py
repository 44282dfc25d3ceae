"""The stages side by side: one table, one page that needs no network."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl
from matplotlib.figure import Figure

from persona import artefacts
from persona.evaluation.statistics import nll_metrics, paired_difference
from persona.training.logs import read_log

matplotlib.rcParams["svg.hashsalt"] = "persona"  # the same bytes every time

Stages = dict[str, dict[str, Any]]

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.4rem .8rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}td small{color:#555}svg{max-width:100%;height:auto}"
)
MARKERS = "osD^vPX*"


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


def short_table(table: pl.DataFrame) -> str:
    """The stages for a terminal."""
    lines = [f"{'stage':<16}{'samples':>9}{'seconds':>9}  {'test NLL per character':<26}less {table['stage'][0]}"]
    for row in table.iter_rows(named=True):
        test = f"{row['test_nll']:.3f} [{_short(row['test_95'])}]"
        difference = f"{row['test_minus_first_stage']:+.3f} [{_short(row['difference_95'], '+')}]"
        lines.append(f"{row['stage']:<16}{row['samples']:>9,}{row['seconds']:>9.0f}  {test:<26}{difference}")
    return "\n".join([*lines, f"untrained model: {table['untrained_test_nll'][0]:.3f}"])


def page(stages: Stages, table: pl.DataFrame, caution: str) -> str:
    """A self-contained HTML page; `caution` is what a reader must know before the figures."""
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>What each stage learned</title><style>{STYLE}</style><h1>What each stage learned</h1>"
        f"{f'<p><b>{html.escape(caution)}</b></p>' if caution else ''}<p>{_answer(table)}</p>{_html_table(table)}"
        "<p>Negative log-likelihood (NLL) of reviews of users that no stage was trained on, in nats per character: "
        "lower is better. All stages are scored on the same targets. Brackets are 95 % intervals from 10,000 resamples "
        "of users; the difference to the first stage is paired by target. Seconds are those of optimizer steps.</p>"
        f"<h2>Unseen users</h2>{_test_plot(table)}<h2>Validation while training</h2>{_loss_curves(stages)}</html>\n"
    )


def _answer(table: pl.DataFrame) -> str:
    """The best stage, and every stage's difference to the first, certain or not."""
    best = table.sort("test_nll").row(0, named=True)
    first = table.row(0, named=True)
    verdicts = []
    for row in table.rows(named=True)[1:]:
        low, high = (float(bound) for bound in row["difference_95"].split(" to "))
        verdict = "better than" if high < 0 else "worse than" if low > 0 else "not distinguishable from"
        verdicts.append(f"<b>{html.escape(row['stage'])}</b> is {verdict} {html.escape(first['stage'])}")
    return (
        f"The best stage on the test users is <b>{html.escape(best['stage'])}</b>, {best['test_nll']:.3f} nats per "
        f"character (untrained model: {best['untrained_test_nll']:.3f}). {'; '.join(verdicts)}{'.' if verdicts else ''}"
    )


def _html_table(table: pl.DataFrame) -> str:
    header = ["stage", "samples", "tokens trained on", "epochs", "seconds", "val NLL", "test NLL", "untrained"]
    rows = "".join(_html_row(row, is_first=place == 0) for place, row in enumerate(table.iter_rows(named=True)))
    first = html.escape(table["stage"][0])
    cells = "".join(f"<th>{name}</th>" for name in [*header, f"test, less {first}"])
    return f"<table><tr>{cells}</tr>{rows}</table>"


def _html_row(row: dict[str, Any], is_first: bool) -> str:
    factors = html.escape(f"{row['sample']}, {row['ablation']}")
    cells = [
        f"{html.escape(row['stage'])}<br><small>{factors}</small>",
        f"{row['samples']:,}",
        f"{row['tokens_seen']:,}",
        f"{row['epochs']}",
        f"{row['seconds']:,.0f}",
        f"{row['val_nll']:.3f}<br><small>[{_short(row['val_95'])}]</small>",
        f"{row['test_nll']:.3f}<br><small>[{_short(row['test_95'])}]</small>",
        f"{row['untrained_test_nll']:.3f}",
        ""
        if is_first
        else f"{row['test_minus_first_stage']:+.3f}<br><small>[{_short(row['difference_95'], '+')}]</small>",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _short(interval: str, sign: str = "") -> str:
    return ", ".join(f"{float(bound):{sign}.3f}" for bound in interval.split(" to "))


def _test_plot(table: pl.DataFrame) -> str:
    figure = Figure(figsize=(8, 0.6 * table.height + 1))
    axes = figure.subplots()
    for place, row in enumerate(table.iter_rows(named=True)):
        low, high = (float(bound) for bound in row["test_95"].split(" to "))
        axes.plot([low, high], [place, place], color="black")
        axes.plot(row["test_nll"], place, marker=MARKERS[place % len(MARKERS)], color="black")
    axes.set_yticks(range(table.height), table["stage"].to_list())
    axes.invert_yaxis()
    axes.set_xlabel("test NLL (nats per character), with 95 % interval")
    return _svg(figure)


def _loss_curves(stages: Stages) -> str:
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    for place, (name, stage) in enumerate(stages.items()):
        records = [r for r in read_log(Path(stage["training"]) / "train_log.jsonl") if r["type"] == "val"]
        steps, losses = [r["step"] for r in records], [r["val_loss"] for r in records]
        axes.plot(steps, losses, marker=MARKERS[place % len(MARKERS)], label=name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("validation NLL (nats per token)")
    axes.legend()
    return _svg(figure)


def _svg(figure: Figure) -> str:
    picture = io.StringIO()
    figure.savefig(picture, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = picture.getvalue()
    return text[text.index("<svg") :]
