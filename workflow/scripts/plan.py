"""Estimate the cost of the stages from their token counts and the configured hardware."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.files import write_json, write_text
from persona.planning.settings import Hardware, PlannedStage
from persona.planning.stage import plan_stage
from persona.planning.table import plan_table
from persona.tables import schemas
from persona.tables.parquet import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--stages", type=json.loads, required=True, help="JSON of PlannedStage by stage")
    parser.add_argument("--hardware", type=json.loads, required=True, help="JSON of Hardware; null names no times")
    parser.add_argument("--assumed-sd", type=float, required=True, help="of the users' effects, in nats per character")
    args = parser.parse_args()
    hardware = Hardware.model_validate(args.hardware) if args.hardware else None
    stages = {name: PlannedStage.model_validate(stage) for name, stage in args.stages.items()}
    plans = {name: plan_stage(stage, hardware) for name, stage in stages.items()}
    # All stages have the same test cohort.
    test = read_table(next(iter(stages.values())).test_tokens, schemas.TOKENS, ["user_id"])
    write_json(plans, args.figures)
    write_text(plan_table(plans, hardware, test["user_id"].n_unique(), args.assumed_sd), args.table)


if __name__ == "__main__":
    run_command(main)
