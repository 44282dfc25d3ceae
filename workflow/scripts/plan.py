"""Estimate the cost of the stages from their token counts and the configured hardware."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.files import write_json, write_text
from persona.planning.settings import Hardware, PlannedStage
from persona.planning.stage import plan_stage
from persona.planning.table import plan_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--stages", type=json.loads, required=True, help="JSON of PlannedStage by stage")
    parser.add_argument("--hardware", type=json.loads, required=True, help="JSON of Hardware")
    args = parser.parse_args()
    hardware = Hardware.model_validate(args.hardware)
    plans = {name: plan_stage(PlannedStage.model_validate(s), hardware) for name, s in args.stages.items()}
    write_json(plans, args.figures)
    write_text(plan_table(plans, hardware), args.table)


if __name__ == "__main__":
    run_command(main)
