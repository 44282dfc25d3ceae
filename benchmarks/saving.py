"""What saving costs: after every epoch, as earlier versions did, against checkpoints by time behind the training.

    python -m benchmarks.saving                 # two CPU processes, or two GPUs

A training of 20 epochs of 31 steps, whose validation loss falls in most, in three ways, one after the other in the same
processes. Of a tiny model a checkpoint is written in no time, so each write then waits until it has taken as long as on
a slower disk: one on which a checkpoint takes half an epoch. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from benchmarks.corpus import ROOT, synthetic_reviews
from benchmarks.workers import run, run_workers
from persona.files import write_json
from persona.modeling.packing import TokenTable
from persona.modeling.tiny import moe_config, train_tokenizer
from persona.tokenization.chat import load_tokenizer
from persona.training import saving
from persona.training.settings import Schedule

STEPS, SAMPLES = 31, 8
pace = float("inf")  # bytes per second of each process
WAYS = ("every_epoch", "by_time", "by_default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--checkpoint-epochs", type=float, default=0.5, help="epochs that writing a checkpoint takes")
    parser.add_argument(
        "--epochs-between", type=float, default=7.0, help="epochs from checkpoint to checkpoint, by time"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    run(args, measure, compare)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write a model and start this file under torchrun."""
    from transformers import Qwen3MoeForCausalLM

    tokenizer = train_tokenizer(synthetic_reviews(200).interactions["text"].to_list(), 1024)
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(moe_config(tokenizer, args.hidden_size, 1, args.experts)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return run_workers("benchmarks.saving", folder, args)


def compare(folder: Path, args: argparse.Namespace) -> None:
    """In every process: the same training saved in each way."""
    rng = np.random.default_rng(0)
    n, length = STEPS * SAMPLES, 24
    table = TokenTable(
        ids=rng.integers(3, 1000, n * length).astype(np.int32),
        starts=np.arange(n + 1, dtype=np.int64) * length,
        prompt_lengths=np.full(n, 16, dtype=np.int32),
        users=np.arange(n),
    )
    warm_up = one_training(folder, "by_default", table, Schedule(samples_per_step=SAMPLES, max_epochs=1))
    epoch = warm_up["steps_s"]
    parameters = sum(p.numel() for p in load_file(folder / "model" / "model.safetensors").values())
    pace_writes(12 * parameters / dist.get_world_size() / (args.checkpoint_epochs * epoch))
    minutes = {"by_time": args.epochs_between * epoch / 60}
    ways = {
        way: one_training(
            folder,
            way,
            table,
            Schedule(
                samples_per_step=SAMPLES,
                max_epochs=args.epochs,
                early_stopping_patience=args.epochs,
                checkpoint_minutes=minutes.get(way, Schedule.model_fields["checkpoint_minutes"].default),
            ),
        )
        for way in WAYS
    }
    if dist.get_rank() == 0:
        old, new = ways["every_epoch"], ways["by_time"]
        result = {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "processes": args.processes,
            "ways": ways,
            "bytes_old_over_new": old["gb_written"] / ways["by_default"]["gb_written"],
            "bytes_old_over_by_time": old["gb_written"] / new["gb_written"],
            "waited_share": new["waited_s"] / new["seconds"],
            "waited_share_old": old["waited_s"] / old["seconds"],
            "share_in_steps": new["steps_s"] / new["seconds"],
            "share_in_steps_old": old["steps_s"] / old["seconds"],
        }
        write_json(result, folder / "figures.json")
    dist.barrier()


def one_training(folder: Path, way: str, table: TokenTable, schedule: Schedule) -> dict[str, float]:
    """Train and export; seconds and bytes of all processes."""
    from persona.training.checkpoints import LoopState, RunFolder
    from persona.training.engine import build_engine
    from persona.training.export import export_model
    from persona.training.loop import Training
    from persona.training.saving import BestWeights, CheckpointWriter
    from persona.training.settings import Optimization
    from persona.training.stopping import StopRequest

    class EveryEpoch(Training):
        """Exports each better model and writes a checkpoint after every epoch, while the training waits."""

        waited = 0.0

        def _validate(self, state: LoopState) -> None:
            super()._validate(state)
            started = time.perf_counter()
            if state.best_step == state.global_step:
                export_model(self.engine, tokenizer, self.folder.best(state.best_epoch))
                pause(self.folder.best(state.best_epoch) / "model.safetensors")
                if state.best_epoch > 1 and dist.get_rank() == 0:
                    shutil.rmtree(self.folder.best(state.best_epoch - 1), ignore_errors=True)
            self.folder.save(self.engine, self.writer, BestWeights(), state)
            self.folder.conclude(self.writer)
            self.waited += time.perf_counter() - started

    model, tokenizer = folder / "model", load_tokenizer(str(folder / "model"))
    file = "zero3" if torch.cuda.is_available() else "zero3_cpu"
    optimization = Optimization(learning_rate=1e-3, warmup_ratio=0.0)
    engine = build_engine(
        str(model), ROOT / "config" / "deepspeed" / f"{file}.json", optimization, STEPS, schedule.max_epochs, True
    )
    with closing(RunFolder(folder / way)) as run:
        run.path.mkdir(exist_ok=True)
        kind = EveryEpoch if way == "every_epoch" else Training
        writer = CheckpointWriter(engine)
        training = kind(engine, table, table, schedule, run, writer, BestWeights(), None, StopRequest(()))
        written, started = bytes_written(), time.perf_counter()
        state = training.run(LoopState())
        waited = training.waited if isinstance(training, EveryEpoch) else state.saving_seconds
        trained = time.perf_counter()
        run.conclude(writer)
        waited += time.perf_counter() - trained
        seconds = time.perf_counter() - started
        if way != "every_epoch":
            training.best.restore(engine.module)
            export_model(engine, tokenizer, run.best(state.best_epoch))
        total = bytes_written() - written
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder / way)
    figures = {"seconds": seconds, "steps_s": state.seconds, "waited_s": waited, "gb_written": total / 1e9}
    if dist.get_rank() == 0:
        print(way, figures, asdict(state), file=sys.stderr)
    return figures


def pace_writes(bytes_per_second: float) -> None:
    """Let each file of a checkpoint take the time of a disk that writes so many bytes a second for each process."""
    global pace
    pace = bytes_per_second
    write = saving._write

    def slowly(state: Any, path: str) -> None:
        write(state, path)
        pause(Path(path))

    saving._write = slowly


def pause(file: Path) -> None:
    """Wait as long as the slow disk takes for a file."""
    time.sleep(file.stat().st_size / pace)


def bytes_written() -> int:
    """Bytes that all processes have written."""
    written = torch.tensor(psutil.Process().io_counters().write_bytes)
    dist.all_reduce(written)
    return int(written)


if __name__ == "__main__":
    main()
