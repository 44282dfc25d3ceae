"""Fine-tune a model. torchrun starts this script once per process."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.modeling.processes import distributed_processes, require_gpus
from persona.training.settings import ExportSettings, Optimization, Schedule
from persona.training.stopping import StopRequest
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
    stop = StopRequest()
    with distributed_processes(ending=lambda: bool(stop.name)):
        train(Files(**args), optimization, schedule, export, factors, stop)


if __name__ == "__main__":
    run_command(main)
