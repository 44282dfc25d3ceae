"""Tables for a terminal and as Markdown."""

from __future__ import annotations

import polars as pl

from persona.reporting.evidence import Evidence
from persona.reporting.stages import stage_table
from persona.reporting.text_tables import as_markdown, short_table


def test_the_short_table_explains_its_columns(evidence: Evidence) -> None:
    lines = short_table(stage_table(evidence.stages), evidence.candidates).splitlines()
    assert lines[0].split("  ")[0] == "stage" and lines[0].endswith("author found")
    assert [line.split()[0] for line in lines[1:3]] == ["quick", "history"]
    assert lines[2].endswith("100.0%")
    assert lines[-1].endswith("picked out of 4 (chance 25.0%).")


def test_markdown_escapes_what_would_break_a_row() -> None:
    table = pl.DataFrame({"a": ["x|<y>", None], "b": [0.12345, 2.0]})
    rows = [" ".join(line.split()) for line in as_markdown(table).splitlines()]
    assert rows[0] == "| a | b |"
    assert rows[2:] == ["| x\\|&lt;y&gt; | 0.1235 |", "| | 2.0000 |"]


def test_a_value_without_an_interval_stands_alone(evidence: Evidence) -> None:
    table = stage_table(evidence.stages).with_columns(swap_gap_low=None, swap_gap_high=None)
    text = short_table(table, evidence.candidates)
    assert "+0.200  " in text and "+0.200 [" not in text
