"""The processes of a training or an evaluation: how they find each other, and when they end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from persona.errors import PersonaError
from persona.modeling.loading import default_device

PATIENCE = timedelta(hours=2)
TIME_TO_SAVE = 600.0  # seconds, as in launch.sh


def require_gpus(n_gpus: int) -> None:
    """Make sure that this machine has the GPUs that a recipe asks for.

    Raises:
        PersonaError: it has fewer; on the CPU the training would run, slowly and in another precision.
    """
    if torch.cuda.device_count() < n_gpus:
        raise PersonaError(
            f"the recipe asks for gpus: {n_gpus} and torch finds {torch.cuda.device_count()} here; lower it, set "
            "cpu_processes instead, or install torch's CUDA build"
        )


def start_processes() -> None:
    """Join the process group that torchrun made: gloo on the CPU, NCCL on GPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(default_device())
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def start_distributed() -> None:
    """Join it in DeepSpeed's way."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if not torch.cuda.is_available():
        # The shared-memory op would be compiled for 40 s; gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Ranks wait while rank 0 hashes the base model or writes an export of 61 GB.
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False, timeout=PATIENCE
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(default_device())


def end_with_the_launcher(ending: Callable[[], bool] = lambda: False) -> None:
    """End this process when torchrun, or the Snakemake that started it, is gone.

    Killed without a chance to say so they would leave ranks that hold the GPUs and the run folder.

    Args:
        ending: whether this process was told to end and is about to; then it has time to save.
    """
    launchers = _launchers()
    if not launchers:
        _end()  # torchrun was gone before this process could look

    def watch() -> None:
        while all(map(_lives, launchers)):
            time.sleep(0.5)
        if ending():
            time.sleep(TIME_TO_SAVE)
        _end()

    threading.Thread(target=watch, daemon=True).start()


def _launchers() -> list[psutil.Process]:
    """This process's parents from torchrun to Snakemake; without Snakemake torchrun alone: its own parent may go."""
    parents: list[psutil.Process] = psutil.Process().parents()
    if not parents or not {"torchrun", "torch.distributed.run"} & _words(parents[0]):
        return []
    depth = next((n for n, process in enumerate(parents, 1) if "snakemake" in _words(process)), 1)
    return parents[:depth]


def _words(process: psutil.Process) -> set[str]:
    """The first words of a command line, without folders; none of a process that cannot be looked at."""
    try:
        return {Path(word).name for word in process.cmdline()[:4]}
    except psutil.Error:
        return set()


def _end() -> None:
    print("error: the launcher of this process is gone; start it again to go on", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: psutil.Process) -> bool:
    try:
        lives: bool = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    return lives
