"""The processes of a training or an evaluation: their process group, and the end of a process whose launcher died."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from persona.errors import PersonaError
from persona.modeling.loading import default_device

# Ranks wait while rank 0 hashes the base model or writes an export of 61 GB.
TIMEOUT = timedelta(hours=2)
TIME_TO_SAVE = 600.0  # seconds, as in launch.sh


def require_gpus(n_gpus: int) -> None:
    """Make sure that this machine has the GPUs that a recipe asks for.

    Raises:
        PersonaError: it has fewer; on the CPU the training would run slowly and in another precision.
    """
    if torch.cuda.device_count() < n_gpus:
        raise PersonaError(
            f"the recipe asks for gpus: {n_gpus} and torch finds {torch.cuda.device_count()} here; lower it, set "
            "cpu_processes instead, or install torch's CUDA build"
        )


@contextmanager
def distributed_processes(deepspeed: bool = True, ending: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """For a script that torchrun starts: join its process group, end with the launcher, leave the group at the end.

    Args:
        deepspeed: whether the block uses DeepSpeed.
        ending: see `end_with_the_launcher`.
    """
    end_with_the_launcher(ending)
    with process_group(deepspeed):
        yield


@contextmanager
def process_group(deepspeed: bool = True) -> Iterator[None]:
    """Run the block in a process group: gloo on the CPU, NCCL on GPUs.

    A group that exists is used and kept. Otherwise the block joins the group of torchrun, or, where torchrun did not
    start this process, has a group of one process. It leaves the group at its end.

    Args:
        deepspeed: whether the block uses DeepSpeed.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(default_device())
        # launch.sh shares out the cores of the job, which are one for each GPU. There the threads convert weights while
        # they load.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if dist.is_initialized():
        if deepspeed:
            _start_deepspeed()
        yield
    elif started_by_torchrun():
        if deepspeed:
            _start_deepspeed()
        else:
            dist.init_process_group(_backend(), timeout=TIMEOUT)
        yield
        # Not after an error: leaving could wait for processes that still communicate. The script ends instead.
        dist.destroy_process_group()
    else:
        with _group_of_one(deepspeed):
            yield


@contextmanager
def _group_of_one(deepspeed: bool) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group(_backend(), store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    known = "LOCAL_RANK" in os.environ
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it
    try:
        if deepspeed:
            _start_deepspeed()
        yield
    finally:
        if deepspeed:
            _stop_deepspeed()
        else:
            dist.destroy_process_group()
        if not known:
            del os.environ["LOCAL_RANK"]


def started_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def seconds_since_launch() -> float:
    """Seconds since torchrun was started, or since this process was where torchrun did not start it."""
    process = psutil.Process(os.getppid() if started_by_torchrun() else os.getpid())
    return time.time() - float(process.create_time())


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def _start_deepspeed() -> None:
    """Start DeepSpeed's communication in the process group that exists, or else in that of torchrun."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if not torch.cuda.is_available():
        # The shared-memory op would be compiled for 40 s; gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=_backend(), verbose=False, timeout=TIMEOUT)


def _stop_deepspeed() -> None:
    """Leave the process group; DeepSpeed forgets it as well, so that another can follow."""
    from deepspeed import comm

    comm.destroy_process_group()


def end_with_the_launcher(ending: Callable[[], bool] = lambda: False) -> None:
    """End this process when torchrun, or the Snakemake that started it, is gone.

    A launcher that is killed leaves its ranks running, and they would hold the GPUs and the run folder. A process
    that torchrun did not start has no launcher, and nothing is watched.

    Args:
        ending: whether this process was told to end and is about to; then it has time to save.
    """
    if not started_by_torchrun():
        return
    launchers = _launchers()
    if not launchers:
        _end()  # torchrun was gone before this process could look

    def watch() -> None:
        while all(map(_is_alive, launchers)):
            time.sleep(0.5)
        if ending():
            time.sleep(TIME_TO_SAVE)
        _end()

    threading.Thread(target=watch, daemon=True).start()


def _launchers() -> list[psutil.Process]:
    """The parents of this process from torchrun to Snakemake; only torchrun where there is no Snakemake.

    Without Snakemake torchrun's own parent, such as a shell, may end before the training.
    """
    parents: list[psutil.Process] = psutil.Process().parents()
    if not parents or not {"torchrun", "torch.distributed.run"} & _words(parents[0]):
        return []
    depth = next((n for n, process in enumerate(parents, 1) if "snakemake" in _words(process)), 1)
    return parents[:depth]


def _words(process: psutil.Process) -> set[str]:
    """The first words of a command line, without folders; none if the process cannot be read."""
    try:
        return {Path(word).name for word in process.cmdline()[:4]}
    except psutil.Error:
        return set()


def _end() -> None:
    print("error: the launcher of this process is gone; start it again to go on", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_alive(process: psutil.Process) -> bool:
    try:
        alive: bool = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    return alive
