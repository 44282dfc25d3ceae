"""Check rendered prompts for leaks; fail if there are any."""

import argparse
import json
import math
from pathlib import Path

import polars as pl

from persona.audit.checks import (
    PROMPTS_AT_ONCE,
    RENDERED_AGAIN,
    audit_other_users,
    audit_prompts,
    audit_rendering,
    check_findings,
    hidden_in_history,
)
from persona.audit.repeats import repeats_in_history
from persona.errors import run_command
from persona.files import write_json, write_text
from persona.prompts import PromptSpec, other_users
from persona.tables import schemas
from persona.tables.parquet import count_rows, read_parts, read_rows, read_table
from persona.tables.splits import read_split, shown_reviews, split_of_users


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    for name in ("findings", "prompts", "interactions", "split", "users", "items", "style"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--split-name", required=True, help="the split of the prompts")
    parser.add_argument("--prompt", type=json.loads, required=True, help="JSON of PromptSpec without its style")
    parser.add_argument("--allowed", type=json.loads, required=True, help="JSON: share of targets by check")
    args = parser.parse_args()
    items = read_table(args.items, schemas.ITEMS)
    spec = PromptSpec.load(args.style, args.prompt)
    others = other_users(args.interactions, args.split, spec)
    split_of_others = split_of_users(read_split(args.split)) if others else None
    n_targets = count_rows(args.prompts)
    checked_again = RENDERED_AGAIN / max(1, n_targets)
    tables = []
    for prompts in read_parts(args.prompts, schemas.PROMPTS, PROMPTS_AT_ONCE):
        # A part begins and ends anywhere in the texts of a user, and needs all of these.
        first, last = prompts.select(first=pl.min("user_id").fill_null(""), last=pl.max("user_id").fill_null("")).row(0)
        of_users = (first, f"{last}0")
        reviews = read_table(args.interactions, schemas.INTERACTIONS, users=of_users)
        users = read_table(args.users, schemas.USERS, users=of_users)
        split = read_split(args.split, of_users)
        if split_of_others is not None:
            entries = read_rows(args.interactions, schemas.INTERACTIONS, prompts["history_ids"].explode().drop_nulls())
            tables.append(audit_other_users(prompts, reviews, entries, split_of_others))
        else:
            tables += [
                audit_prompts(prompts, reviews),
                hidden_in_history(prompts, split, args.split_name),
                repeats_in_history(prompts, reviews),
            ]
        at_most = math.ceil(checked_again * prompts.height)
        shown = shown_reviews(reviews, split, args.split_name)
        tables.append(audit_rendering(prompts, shown, users, items, spec, at_most, others))
    findings = pl.concat(tables)
    write_text(findings.sort("check", "interaction_id").write_csv(), args.findings)
    allowed = dict(args.allowed)
    if args.split_name == "train":
        # What users repeat is part of what is learnt of them; it would flatter the evaluation alone.
        allowed |= dict.fromkeys(("repeated_in_history", "quoted_in_history"), 1.0)
    counts = check_findings(findings, n_targets, allowed, str(args.findings))
    write_json({"targets": n_targets, "found": counts}, args.output)


if __name__ == "__main__":
    run_command(main)
