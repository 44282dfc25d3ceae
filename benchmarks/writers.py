"""How long a training waits for a checkpoint: written at once, behind the training, and by torch's `async_save`.

    python -m benchmarks.writers                # two CPU processes, or two GPUs

Each process holds an optimizer state and computes steps of a matrix product while the state is written, in several
ways, turn by turn. `async_save` is that of `torch.distributed.checkpoint`, with a thread and with a process that
writes. The last line is one JSON object: seconds that the steps waited, seconds until the files were complete, and
seconds of a step meanwhile over those of a step alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save

from benchmarks.workers import run, run_workers
from persona.modeling.loading import default_device
from persona.training.saving import CheckpointWriter


class Engine:
    """What `CheckpointWriter` needs of DeepSpeed's engine."""

    def __init__(self) -> None:
        self.checkpoint_engine = argparse.Namespace()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=1000, help="state of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    run(args, partial(run_workers, "benchmarks.writers"), compare)


def compare(folder: Path, args: argparse.Namespace) -> None:
    """In every process: all ways, turn by turn; the medians are written by rank 0."""
    device = default_device()
    parts = max(1, args.megabytes // 100)
    # Names of their own, or `async_save` would take the state of both processes for one and the same.
    state = {f"rank{dist.get_rank()}.{n}": torch.randn(25_000_000, device=device) for n in range(parts)}
    group = dist.new_group(backend="gloo")

    def torch_saves(kind: AsyncCheckpointerType, path: Path) -> Callable[[], Any]:
        future = async_save(state, checkpoint_id=path, process_group=group, async_checkpointer_type=kind)
        return future.result if not hasattr(future, "upload_completion") else future.upload_completion.result

    def written_by_the_project(behind: bool, path: Path) -> Callable[[], Any]:
        writer = CheckpointWriter(Engine())
        writer.behind = behind
        path.mkdir(exist_ok=True)
        writer.save(state, str(path / f"rank_{dist.get_rank()}.pt"))
        return writer.wait

    ways: dict[str, Callable[[Path], Callable[[], Any]]] = {
        "at_once": lambda path: written_by_the_project(False, path),
        "behind": lambda path: written_by_the_project(True, path),
        "async_save_thread": lambda path: torch_saves(AsyncCheckpointerType.THREAD, path),
        "async_save_process": lambda path: torch_saves(AsyncCheckpointerType.PROCESS, path),
    }
    step = matrix_product(device)
    alone = float(np.median([step() for _ in range(20)]))
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name, save in ways.items():
            dist.barrier()
            figures[name].append(measured(save, folder / f"{name}_{number}", step, alone))
            if dist.get_rank() == 0:
                shutil.rmtree(folder / f"{name}_{number}", ignore_errors=True)
    if dist.get_rank() == 0:
        medians = {name: np.median(np.array(values), axis=0) for name, values in figures.items()}
        fields = ("waited_s", "complete_s", "step_meanwhile_over_alone")
        result = {name: {f: round(float(v), 3) for f, v in zip(fields, m, strict=True)} for name, m in medians.items()}
        (folder / "figures.json").write_text(json.dumps({"gb_per_process": parts / 10, **result}))


def matrix_product(device: torch.device) -> Callable[[], float]:
    """A step, which returns its seconds."""
    matrix = torch.randn(8192 if device.type == "cuda" else 1024, 1024, device=device)

    def step() -> float:
        started = time.perf_counter()
        (matrix @ matrix.T).sum().item()
        return time.perf_counter() - started

    return step


def measured(
    save: Callable[[Path], Callable[[], Any]], path: Path, step: Callable[[], float], alone: float
) -> tuple[float, float, float]:
    """Seconds that the steps waited, seconds until everything was written, and a step meanwhile over one alone."""
    started = time.perf_counter()
    wait = save(path)
    waited = time.perf_counter() - started
    done = threading.Thread(target=wait)
    done.start()
    seconds = []
    while done.is_alive():
        seconds.append(step())
    done.join()
    complete = time.perf_counter() - started
    dist.barrier()
    return waited, complete, float(np.median(seconds)) / alone if seconds else 1.0


if __name__ == "__main__":
    main()
