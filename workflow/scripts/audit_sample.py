"""Look for leaks between a training sample and the cohorts; fail if there are more than allowed."""

import argparse
import json
from pathlib import Path

import polars as pl

from persona import artefacts, audit
from persona.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    for name in ("findings", "sample", "val", "test", "interactions", "split"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON: how the sample was drawn")
    parser.add_argument("--split-by", choices=["user", "item"], required=True)
    parser.add_argument("--allowed", type=json.loads, required=True, help="JSON: share of targets by check")
    args = parser.parse_args()
    sample = artefacts.read_table(args.sample, artefacts.SAMPLES)
    cohorts = {name: artefacts.read_table(getattr(args, name), artefacts.SAMPLES) for name in ("val", "test")}
    columns = ["interaction_id", "user_id", "item_id", "likes", "text"]
    interactions = artefacts.read_table(args.interactions, artefacts.INTERACTIONS, columns)
    split = artefacts.read_table(args.split, artefacts.SPLIT)
    texts = interactions.select("interaction_id", "text")
    findings = pl.concat(
        [
            audit.audit_sample(sample, interactions, split, args.settings),
            audit.audit_splits(sample, cohorts, split, args.split_by),
            audit.near_duplicates(sample, cohorts, texts),
            audit.stars_named(cohorts, texts),
        ]
    )
    artefacts.write_text(findings.sort("check", "interaction_id").write_csv(), args.findings)
    n_targets = sum(cohort.height for cohort in cohorts.values())
    counts = audit.judge(findings, n_targets, args.allowed, str(args.findings))
    artefacts.write_json({"targets": n_targets, "found": counts}, args.output)


if __name__ == "__main__":
    run_command(main)
