"""The page in headless Chromium: drafts of two stages beside the real text, and nothing that people wrote is run."""

from __future__ import annotations

import html
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import polars as pl
import psutil
import pytest

from persona.study import Study
from persona.tables import schemas
from persona.tables.parquet import read_table
from tests.chromium import CHROMIUM, dumped_page
from tests.workflow.conftest import environment

in_browser = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
PARTS = [("part", "profile"), ("part", "history"), ("part", "context")]


@pytest.fixture(scope="module")
def address(finished: Path) -> Iterator[str]:
    """The address that `python -m persona page` prints; the process ends with the tests."""
    command = [sys.executable, "-m", "persona", "page", "--port", "0"]
    with subprocess.Popen(
        command,
        cwd=finished,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that were started in the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+/) shows results/dmsc; Ctrl-C ends it", line)
        assert found, line
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130 and process.stdout.read() == ""


@pytest.fixture
def target(finished: Path) -> dict[str, object]:
    """A test target for which texts were written, with earlier texts."""
    study = Study.load(finished / "results/dmsc")
    written = read_table(study.stage("history").evaluated() / "generations.parquet", schemas.GENERATIONS)
    table = read_table(study.table("targets"), schemas.TARGETS).filter(pl.col("n_history") > 1)
    row = table.join(written.filter(method="greedy"), on="interaction_id", suffix="_written").row(0, named=True)
    return row


def opened(address: str, query: list[tuple[str, object]], folder: Path, language: str = "en-US") -> str:
    """The page with what is asked, in a browser of a language."""
    options = ["--disable-background-networking", f"--accept-lang={language}", "--virtual-time-budget=20000"]
    return dumped_page(f"{address}?{urlencode(query)}", folder, *options)


@in_browser
def test_drafts_of_two_stages_stand_beside_the_real_text_with_what_moved_it(
    address: str, target: dict[str, object], tmp_path: Path
) -> None:
    query = [("asked", 1), ("target", target["interaction_id"]), ("stage", "quick"), ("stage", "history"), *PARTS]
    page = opened(address, [*query, ("samples", 1), ("explain", 1)], tmp_path)
    assert '<body class="show-en">' in page
    assert f'<div class="text real">{html.escape(str(target["text"]), quote=False)}</div>' in page
    quick, history = page.split('data-stage="')[1:]
    assert quick.startswith("quick") and history.startswith("history")
    for section in (quick, history):
        assert section.count('<div class="text draft">') == 2 and "★" in section
    assert html.escape(str(target["text_written"]).strip(), quote=False) in history
    assert "[HISTORY]" in history and "[HISTORY]" not in quick
    bars = re.findall(r'class="(?:more|less)" style="width:([\d.]+)%"', page)
    # The longest of both stages fills its half.
    assert len(bars) == page.count('class="bar"') > 3 and max(map(float, bars)) == 50


@in_browser
def test_parts_are_switched_off_and_the_page_speaks_chinese(
    address: str, target: dict[str, object], tmp_path: Path
) -> None:
    query = [("asked", 1), ("target", target["interaction_id"]), ("stage", "history"), ("part", "profile")]
    page = opened(address, query, tmp_path, "zh-CN")
    assert '<body class="show-zh">' in page and '<html lang="zh">' in page
    assert "[HISTORY]" not in page and "[USER_PROFILE]" in page


@in_browser
def test_what_people_wrote_is_shown_and_not_run(address: str, target: dict[str, object], tmp_path: Path) -> None:
    attack = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
    query = [("asked", 1), ("user", target["user_id"]), ("title", attack), ("text", attack), *PARTS]
    page = opened(address, query, tmp_path)
    assert "<title>persona · dmsc</title>" in page
    assert page.count(html.escape(attack, quote=False)) >= 2
    missing = opened(address, [("asked", 1), ("user", attack), ("title", "x"), *PARTS], tmp_path)
    assert "<title>persona · dmsc</title>" in missing and "no user has this name or hash" in missing


def test_an_error_of_one_stage_leaves_the_answer_of_the_other(address: str, target: dict[str, object]) -> None:
    query = [("asked", 1), ("target", target["interaction_id"]), ("stage", "nonsense"), ("stage", "history"), *PARTS]
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{address}?{urlencode(query)}")
    page = refused.value.read().decode()
    assert "nonsense: no such stage was trained" in page and '<div class="text draft">' in page
    for wrong in ("9" * 5000, "-1", "x"):
        with pytest.raises(HTTPError, match="400"):
            urlopen(f"{address}?{urlencode([('asked', 1), ('target', wrong), ('samples', '9' * 5000)])}")


def test_it_answers_to_this_machine_alone(address: str) -> None:
    host, port = "127.0.0.1", int(address.rsplit(":")[-1].strip("/"))
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(address, headers={"Host": "films.example"}))
    policy = urlopen(address).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'nonce-" in policy
    listening = [each.laddr for each in psutil.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    assert [place.ip for place in listening if place.port == port] == [host]


def test_a_port_in_use_is_named(address: str, finished: Path) -> None:
    port = address.rsplit(":")[-1].strip("/")
    command = [sys.executable, "-m", "persona", "page", "--port", port]
    run = subprocess.run(command, cwd=finished, env=environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"error: port {port} cannot be used (Address already in use); choose another with --port" in run.stderr
