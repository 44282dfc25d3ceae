"""The page: whole, escaped, and without anything from the network."""

from __future__ import annotations

from persona.reporting.evidence import Evidence
from persona.reporting.report import EXAMPLES, examples, page
from persona.reporting.stages import baseline_table, phase_table, stage_table


def test_the_page_holds_everything_and_escapes_texts(evidence: Evidence) -> None:
    table, methods = stage_table(evidence.stages), baseline_table(evidence.stages, evidence.baselines)
    html = page(evidence, [], table, methods, phase_table(evidence.stages))
    assert "In the primary comparison history is better than quick" in html and "换人似然差" in html
    assert "greedy &lt;b&gt;text" in html and "<b>text" not in html
    assert "42 rows were read: 40 were kept, of 40 users and 10 items, and 2 were rejected." in html
    assert "7 of these users have fewer texts than min_reviews_per_user" in html
    assert 'src="http' not in html and 'href="http' not in html


def test_half_of_the_examples_have_the_longest_histories(evidence: Evidence) -> None:
    rows = examples(evidence)
    assert len(rows) == EXAMPLES
    assert [row["real"] for row in rows[:3]] == [f"text {n} & more" for n in (2, 5, 8)]
    assert rows[0]["written"] == {"quick": "greedy <b>text", "history": "greedy <b>text"}
