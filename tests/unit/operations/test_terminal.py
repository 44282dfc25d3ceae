"""What of Snakemake's words reaches the terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from persona.operations.terminal import JobLines


@pytest.fixture
def terminal() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger whose terminal shows the lines of jobs."""
    shown, logger = io.StringIO(), logging.Logger("workflow", logging.INFO)
    handler, lines = logging.StreamHandler(shown), JobLines(logging.Formatter("%(message)s"))
    handler.setFormatter(lines)
    handler.addFilter(lines)
    logger.addHandler(handler)
    yield logger, shown
    handler.close()


def test_a_job_is_a_line_with_what_it_works_on(terminal: tuple[logging.Logger, io.StringIO]) -> None:
    logger, shown = terminal
    logger.info("Select jobs to execute...")
    logger.info("", extra={"event": "job_info", "rule_name": "ingest", "wildcards": {}})
    logger.info("Finished jobid: 1 (Rule: ingest)", extra={"event": "job_finished"})
    logger.info("", extra={"event": "progress", "done": 1, "total": 12})
    wildcards = {"sample": "test", "ablation": "profile"}
    logger.info("", extra={"event": "job_info", "rule_name": "render", "wildcards": wildcards})
    assert shown.getvalue() == "ingest\n1/12 render test/profile\n"


def test_what_went_wrong_is_shown(terminal: tuple[logging.Logger, io.StringIO]) -> None:
    logger, shown = terminal
    fields = {"event": "job_error", "rule_name": "train", "wildcards": {"recipe": "tiny"}, "log": ["logs/train.log"]}
    logger.error("", extra=fields)
    logger.warning("Provided cores are fewer than wanted")
    logger.info("Nothing to be done (all requested files are present and up to date).")
    assert shown.getvalue().splitlines() == [
        "failed: train tiny; its log: logs/train.log",
        "Provided cores are fewer than wanted",
        "Nothing to be done (all requested files are present and up to date).",
    ]
