"""Say what the stages will cost, from their real token counts and the configuration's hardware."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.files import write_json, write_text
from persona.planning.cost import plan_stage
from persona.planning.settings import Hardware
from persona.planning.table import plan_table
from persona.training.settings import Optimization, Schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--stages", type=json.loads, required=True, help="JSON: the arguments of plan_stage by stage")
    parser.add_argument("--hardware", type=json.loads, required=True, help="JSON of Hardware")
    args = parser.parse_args()
    hardware = Hardware.model_validate(args.hardware)
    plans = {
        name: plan_stage(
            tokens=Path(stage["tokens"]),
            val_tokens=Path(stage["val_tokens"]),
            model=stage["model"],
            deepspeed=Path(stage["deepspeed"]),
            optimization=Optimization.model_validate(stage["optimization"]),
            schedule=Schedule.model_validate(stage["schedule"]),
            processes=stage["processes"],
            bytes_per_weight=stage["bytes_per_weight"],
            hardware=hardware,
        )
        for name, stage in args.stages.items()
    }
    write_json(plans, args.figures)
    write_text(plan_table(plans, hardware), args.table)


if __name__ == "__main__":
    run_command(main)
