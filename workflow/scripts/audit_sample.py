"""Check a training sample and the cohorts for leaks; fail if there are more than allowed."""

import argparse
import json
from datetime import date
from pathlib import Path

import polars as pl

from persona.audit.checks import (
    audit_days,
    audit_sample,
    audit_splits,
    check_findings,
    near_duplicates,
    stars_named,
)
from persona.audit.repeats import quoted_in_training, training_texts, two_accounts
from persona.errors import run_command
from persona.files import write_json, write_text
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.tables.splits import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    for name in ("findings", "sample", "val", "test", "interactions", "split"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON: how the sample was drawn")
    parser.add_argument("--split-settings", type=json.loads, required=True, help="JSON: the keys of `split`")
    parser.add_argument("--allowed", type=json.loads, required=True, help="JSON: share of targets by check")
    args = parser.parse_args()
    sample = read_table(args.sample, schemas.SAMPLES)
    cohorts = {name: read_table(getattr(args, name), schemas.SAMPLES) for name in ("val", "test")}
    columns = ["interaction_id", "user_id", "item_id", "day", "session", "likes", "text"]
    interactions = read_table(args.interactions, schemas.INTERACTIONS, columns)
    split, by = read_split(args.split), args.split_settings["by"]
    texts = interactions.select("interaction_id", "text")
    training = training_texts(sample, interactions, split)
    tables = [
        audit_sample(sample, interactions, split, args.settings),
        audit_splits(sample, cohorts, split, by),
        near_duplicates(training, cohorts, texts),
        quoted_in_training(training, cohorts, texts),
        stars_named(cohorts, texts),
    ]
    if by == "time":
        days = [date.fromisoformat(args.split_settings[key]) for key in ("val_from", "test_from")]
        tables.append(audit_days(sample, cohorts, interactions, *days))
    if by == "user":
        tables.append(two_accounts(sample, cohorts, interactions))
    findings = pl.concat(tables)
    write_text(findings.sort("check", "interaction_id").write_csv(), args.findings)
    n_targets = sum(cohort.height for cohort in cohorts.values())
    counts = check_findings(findings, n_targets, args.allowed, str(args.findings))
    write_json({"targets": n_targets, "found": counts}, args.output)


if __name__ == "__main__":
    run_command(main)
