"""Fine-tune a model. Started by torchrun, once a process."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.modeling.processes import require_gpus
from persona.training.settings import ExportSettings, Optimization, Schedule
from persona.training.train import Files, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train-tokens", "val-tokens", "deepspeed", "run-folder", "model", "train-log", "manifest"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--gpus", type=int, required=True, help="GPUs of this machine; 0 for CPU processes")
    parser.add_argument("--optimization", type=json.loads, required=True, help="JSON of Optimization")
    parser.add_argument("--schedule", type=json.loads, required=True, help="JSON of Schedule")
    parser.add_argument("--export", type=json.loads, required=True, help="JSON of ExportSettings")
    parser.add_argument("--factors", type=json.loads, required=True, help="JSON of sample, ablation and recipe")
    args = vars(parser.parse_args())
    require_gpus(args.pop("gpus"))
    optimization = Optimization.model_validate(args.pop("optimization"))
    schedule = Schedule.model_validate(args.pop("schedule"))
    export = ExportSettings.model_validate(args.pop("export"))
    factors = args.pop("factors")
    train(Files(**args), optimization, schedule, export, factors)


if __name__ == "__main__":
    run_command(main)
