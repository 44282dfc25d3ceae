"""The page in a browser: on a phone, and in Chinese."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from persona.reporting.evidence import Evidence
from persona.reporting.plots import pictures
from persona.reporting.report import page
from persona.reporting.stages import baseline_table, phase_table, stage_table
from tests.chromium import CHROMIUM, dumped_page

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")

# Looks at the page in a frame as wide as a phone, in both languages, and leaves what it saw as JSON.
FRAME = """<!doctype html><meta charset="utf-8"><iframe id="phone" width="400" height="800" src="index.html"></iframe>
<pre id="seen"></pre><script>
const phone = document.getElementById("phone");
phone.addEventListener("load", () => {
  const page = phone.contentDocument, seen = {};
  for (const language of ["en", "zh"]) {
    page.querySelector(`button[data-show=${language}]`).click();
    const personal = page.querySelector("td.claim").getBoundingClientRect();
    seen[language] = {
      width: page.documentElement.scrollWidth, personal_ends: personal.right, lang: page.documentElement.lang,
      pressed: page.querySelector("button[aria-pressed=true]").textContent, text: page.body.innerText,
      pictures: [...page.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width > 0).length,
    };
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


@pytest.fixture(scope="module")
def seen(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("page")
    tables = stage_table(evidence.stages), baseline_table(evidence.stages, evidence.baselines)
    html = page(evidence, pictures(evidence), *tables, phase_table(evidence.stages))
    (folder / "index.html").write_text(html, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME, encoding="utf-8")
    return look(folder / "frame.html")


def look(frame: Path) -> dict[str, Any]:
    page = dumped_page(frame.as_uri(), frame.parent, "--allow-file-access-from-files", "--virtual-time-budget=10000")
    found = re.search(r'<pre id="seen">(.+?)</pre>', page, re.DOTALL)
    assert found, page[-2000:]
    seen: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return seen


@pytest.mark.parametrize(("language", "pressed"), [("en", "English"), ("zh", "中文")])
def test_on_a_phone_the_page_needs_no_sideways_scrolling_to_see_what_is_personal(
    seen: dict[str, Any], language: str, pressed: str
) -> None:
    view = seen[language]
    assert view["pressed"] == pressed and view["lang"] == language
    assert view["width"] <= 400
    assert view["personal_ends"] <= 400


def test_each_language_stands_alone(seen: dict[str, Any]) -> None:
    assert "What each stage learned" in seen["en"]["text"] and "各阶段学到了什么" not in seen["en"]["text"]
    assert "各阶段学到了什么" in seen["zh"]["text"] and "What each stage learned" not in seen["zh"]["text"]
    assert seen["en"]["pictures"] == seen["zh"]["pictures"] > 0
