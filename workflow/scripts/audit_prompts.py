"""Look for the future in rendered prompts; fail if there is any."""

import argparse
import json
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
    prompts = artefacts.read_table(args.prompts, artefacts.PROMPTS)
    interactions = artefacts.read_table(args.interactions, artefacts.INTERACTIONS)
    users, items = artefacts.read_table(args.users, artefacts.USERS), artefacts.read_table(args.items, artefacts.ITEMS)
    parts, style = Parts(**args.parts), load_style(args.style)
    findings = pl.concat(
        [
            audit.audit_prompts(prompts, interactions),
            audit.audit_rendering(prompts, interactions, users, items, style, parts, args.task, args.cue),
        ]
    )
    artefacts.write_text(findings.sort("check", "interaction_id").write_csv(), args.findings)
    counts = audit.judge(findings, prompts.height, {}, str(args.findings))
    artefacts.write_json({"targets": prompts.height, "found": counts}, args.output)


if __name__ == "__main__":
    run_command(main)
