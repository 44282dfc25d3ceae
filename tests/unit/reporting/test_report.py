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
    assert "Data set dmsc; model tiny; trained 2026-11-26; code 1953a857c37a" in html
    assert "tiny: learning rate 0.001, 32 samples a step, 1 of at most 4 epochs" in html
    assert 'src="http' not in html and 'href="http' not in html


def test_examples_are_drawn_without_a_look_at_them(evidence: Evidence) -> None:
    rows = examples(evidence)
    assert len({row["real"] for row in rows}) == EXAMPLES
    assert rows == examples(evidence)
    # About a third of the targets has no history; the draw does not prefer the others.
    assert any(row["n_history"] == 0 for row in rows)
    assert not any(user in str(row["user"]) for row in rows for user in evidence.targets["user_id"])
    both = {"greedy": "greedy <b>text", "sample": "sample <b>text"}
    assert rows[0]["written"] == {"untrained, tiny, history": both, "quick": both, "history": both}
