"""The tables of the report as text: for a terminal and as Markdown."""

from __future__ import annotations

import html
from typing import Any

import polars as pl
from tabulate import tabulate


def short_table(table: pl.DataFrame, candidates: int) -> str:
    """The main columns of `stage_table` for a terminal, and what they mean."""
    first = table["stage"][0]
    columns = [
        "stage",
        "training samples",
        "seconds",
        "test NLL [95 %]",
        f"minus {first}",
        "swap gap [95 %]",
        "author found",
    ]
    rows = [columns, *(_short_row(row, first) for row in table.iter_rows(named=True))]
    alignment = ("left", "right", "right", "left", "left", "left", "right")
    text = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=alignment)
    notes = [
        f"Untrained model: test NLL {table['untrained_test_nll'][0]:.3f}.",
        "NLL: negative log-likelihood of a user's real text, in nats per character; lower is better.",
        "Swap gap: NLL under other users' prompts minus NLL under the user's own prompt; higher is better.",
        f"Author found: how often the right author is picked out of {candidates} (chance {1 / candidates:.1%}).",
    ]
    return "\n".join([text, *notes])


def _short_row(row: dict[str, Any], first: str) -> list[str]:
    return [
        row["stage"],
        f"{row['samples']:,}",
        f"{row['seconds']:.0f}",
        interval(row, "test_nll", ".3f"),
        interval(row, "test_nll_less_first", "+.3f") if row["stage"] != first else "",
        interval(row, "swap_gap", "+.3f"),
        "-" if row["acc"] is None else f"{row['acc']:.1%}",
    ]


def interval(row: dict[str, Any], name: str, form: str) -> str:
    """A value with its bounds from the columns of `stages.bounds_of`; a dash where there is none."""
    if row[name] is None:
        return "-"
    if row.get(f"{name}_low") is None:
        return f"{row[name]:{form}}"
    return f"{row[name]:{form}} [{row[f'{name}_low']:{form}}, {row[f'{name}_high']:{form}}]"


def as_markdown(table: pl.DataFrame) -> str:
    """A table as Markdown; numbers with four digits after the point."""
    rows = [[_cell(value) for value in row] for row in table.iter_rows()]
    return tabulate(rows, table.columns, tablefmt="github", disable_numparse=True) + "\n"


def _cell(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
    return html.escape(text, quote=False).replace("|", "\\|")
