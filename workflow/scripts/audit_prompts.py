"""Look for the future in rendered prompts; fail if there is any."""

import argparse
import json
import math
from pathlib import Path

import polars as pl

from persona import artefacts, audit
from persona.errors import run_command
from persona.prompts import Parts, load_style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    for name in ("findings", "prompts", "interactions", "users", "items", "style"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--parts", type=json.loads, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--cue", required=True)
    args = parser.parse_args()
    items = artefacts.read_table(args.items, artefacts.ITEMS)
    parts, style = Parts(**args.parts), load_style(args.style)
    n_targets = artefacts.count_rows(args.prompts)
    n = max(1, math.ceil(n_targets / audit.PROMPTS_AT_ONCE))
    found = []
    for some in artefacts.user_ranges(n):
        prompts = artefacts.read_table(args.prompts, artefacts.PROMPTS, users=some)
        reviews = artefacts.read_table(args.interactions, artefacts.INTERACTIONS, users=some)
        users = artefacts.read_table(args.users, artefacts.USERS, users=some)
        found.append(audit.audit_prompts(prompts, reviews))
        at_most = math.ceil(audit.RENDERED_AGAIN / n)
        found.append(audit.audit_rendering(prompts, reviews, users, items, style, parts, args.task, args.cue, at_most))
    findings = pl.concat(found)
    artefacts.write_text(findings.sort("check", "interaction_id").write_csv(), args.findings)
    counts = audit.judge(findings, n_targets, {}, str(args.findings))
    artefacts.write_json({"targets": n_targets, "found": counts}, args.output)


if __name__ == "__main__":
    run_command(main)
