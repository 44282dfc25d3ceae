"""Measure the machine at hand: what the plan needs to know of it, as a `hardware` section of the configuration.

    python -m persona calibrate

starts as many processes as there are GPUs, or two on the CPU, which train a small reference model of this kind. Every
figure is the median of a few runs after a first one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist

from persona.evaluation.settings import BATCH
from persona.modeling.loading import default_device, dtype_on, load_model
from persona.modeling.packing import RowPlan, TokenTable
from persona.modeling.processes import distributed_processes
from persona.modeling.tiny import train_tokenizer
from persona.planning.cost import Work, flops, model_size
from persona.training.engine import build_engine
from persona.training.loop import accumulate
from persona.training.saving import in_host_memory
from persona.training.settings import Optimization

RUNS = 5
SAMPLE = 64  # tokens
DEEPSPEED = {
    "zero_optimization": {
        "stage": 3,
        "reduce_bucket_size": 650_000_000,
        "stage3_max_live_parameters": 2_000_000_000,
        "stage3_param_persistence_threshold": 0,
    }
}


def calibrate(processes: int | None) -> dict[str, Any]:
    """Start the processes and collect what they measure.

    Returns:
        The fields of `planning.settings.Hardware`.
    """
    n = processes or torch.cuda.device_count() or 2
    # Libraries print to stdout, which is for the section.
    with tempfile.TemporaryDirectory(dir=".") as folder, contextlib.redirect_stdout(sys.stderr):
        write_models(Path(folder))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        command += [f"--nproc-per-node={n}", "-m", "persona.planning.calibration", folder]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        environment |= {"CALIBRATION_STARTED": str(time.time())}
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        figures: dict[str, Any] = json.loads((Path(folder) / "figures.json").read_text(encoding="utf-8"))
    return figures


def write_models(folder: Path) -> None:
    """Reference models of two depths: as large as a few layers of the 30B on GPUs, tiny on the CPU."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = (
        {"hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 128, "head_dim": 128, "heads": 32}
        if torch.cuda.is_available()
        else {"hidden_size": 64, "moe_intermediate_size": 32, "num_experts": 8, "head_dim": 32, "heads": 2}
    )
    heads = sizes.pop("heads")
    tokenizer = train_tokenizer(["a film to see again, and once more"] * 20, 300)
    for layers in (1, 3):
        config = Qwen3MoeConfig(
            vocab_size=1024,
            intermediate_size=2 * sizes["hidden_size"],
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 8),
            num_experts_per_tok=min(8, sizes["num_experts"] // 4),
            **sizes,
        )
        with default_device():
            model = Qwen3MoeForCausalLM._from_config(config, dtype=dtype_on(default_device()))
        model.save_pretrained(folder / str(layers))
        tokenizer.save_pretrained(folder / str(layers))
    (folder / "deepspeed.json").write_text(json.dumps(DEEPSPEED), encoding="utf-8")


def measure(folder: Path, start_s: float) -> dict[str, Any]:
    """In every process: all figures."""
    device = default_device()
    gpu = device.type == "cuda"
    few, many = (1024, 8192) if gpu else (256, 2048)
    steps, rates, loads = {}, {}, {}
    for layers in (1, 3):
        size = model_size(str(folder / str(layers)), None)
        started = time.perf_counter()
        engine = build_engine(str(folder / str(layers)), folder / "deepspeed.json", Optimization(), 10, 1, True)
        loads[layers] = time.perf_counter() - started
        seconds = {tokens: step_seconds_of(engine, tokens) for tokens in (few, many)}
        work = {tokens: flops(size, work_of(tokens), False) for tokens in (few, many)}
        # A straight line through two lengths of rows: what does not grow with the tokens, and what does.
        rates[layers] = (work[many] - work[few]) / (seconds[many] - seconds[few])
        steps[layers] = max(0.0, seconds[few] - work[few] / rates[layers])
        del engine
    peak = matrix_product_flops(device)
    per_layer = max(0.0, (steps[3] - steps[1]) / 2)
    weights = [model_size(str(folder / str(layers)), None).parameters * (2 if gpu else 4) / 1e9 for layers in (1, 3)]
    write, read = disk_gb_per_s(folder)
    return {
        "memory_gib": memory_gib(device),
        "peak_tflops": rounded(peak / 1e12),
        "utilisation": rounded(min(1.0, rates[3] / peak)),
        "interconnect_gb_s": rounded(gathered_gb_per_s(device)),
        "micro_step_overhead_s": 0.0 if gpu else rounded(steps[1]),
        "host_s_per_layer": rounded(per_layer) if gpu else 0.0,
        "start_s": rounded(start_s + (0.0 if gpu else loads[1])),
        "load_gb_s": rounded(weights[1] / loads[3]) if gpu else rounded(read),
        "disk_read_gb_s": rounded(read),
        "disk_write_gb_s": rounded(write),
        "host_copy_gb_s": rounded(copied_gb_per_s(device)),
        # Of a tiny model what does not grow with the layers counts as well.
        "decode_s_per_layer": rounded(decode_seconds(folder / "3") / 3 if gpu else decode_seconds(folder / "1")),
        "measured": f"{dist.get_world_size()} x {name_of(device)}, {date.today().isoformat()}",
    }


def rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def median_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The median of some runs after a first one; all processes run together."""
    seconds = []
    for _ in range(RUNS + 1):
        dist.barrier()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))


def samples_of(tokens: int) -> TokenTable:
    """So many tokens of samples that share nothing."""
    n = tokens // SAMPLE
    return TokenTable(
        ids=np.random.default_rng(0).integers(3, 250, n * SAMPLE).astype(np.int32),
        starts=np.arange(n + 1, dtype=np.int64) * SAMPLE,
        prompt_lengths=np.full(n, SAMPLE - 16, dtype=np.int32),
        users=np.arange(n),
    )


def work_of(tokens: int) -> Work:
    """The work of one process in a step of `step_seconds_of`."""
    table = samples_of(tokens)
    return Work(table.computed_lengths, np.zeros(len(table), dtype=np.int64), int(table.completion_lengths.sum()))


def step_seconds_of(engine: Any, tokens: int) -> float:
    """An optimizer step in which each process has one row of so many tokens."""
    table = samples_of(tokens)
    targets = np.arange(len(table))
    rows = [[RowPlan(targets.tolist(), [0] * len(table))]] * dist.get_world_size()

    def step() -> None:
        accumulate(engine, table, targets, rows)
        engine.step()

    return median_seconds(step, engine.device)


def matrix_product_flops(device: torch.device) -> float:
    """Floating point operations per second of a large matrix product in the training's precision."""
    n = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(n, n, device=device, dtype=dtype_on(device)) for _ in range(2))
    return float(2 * n**3 / median_seconds(lambda: left @ right, device))


def gathered_gb_per_s(device: torch.device) -> float:
    """Bandwidth of a ring that gathers, in each process: it receives all parts but its own."""
    ranks = dist.get_world_size()
    if ranks == 1:
        return 1000.0
    part = torch.ones((256 if device.type == "cuda" else 4) * 2**20 // 4, device=device)
    whole = torch.empty(ranks * len(part), device=device)
    seconds = median_seconds(lambda: dist.all_gather_into_tensor(whole, part), device)
    return (ranks - 1) * part.nbytes / 1e9 / seconds


def copied_gb_per_s(device: torch.device) -> float:
    """Copying from the device to host memory, by all processes together."""
    tensor = torch.ones((1024 if device.type == "cuda" else 64) * 2**20 // 4, device=device)
    return tensor.nbytes / 1e9 / median_seconds(lambda: in_host_memory(tensor), device)


def disk_gb_per_s(folder: Path) -> tuple[float, float]:
    """Writing a file until it is on the disk, and reading it from there; one process."""
    file, content = folder / "disk", os.urandom(2**20) * 256
    rates = [0.0, 0.0]
    if dist.get_rank() == 0:
        started = time.perf_counter()
        with file.open("wb") as stream:
            stream.write(content)
            os.fsync(stream.fileno())
        rates[0] = len(content) / 1e9 / (time.perf_counter() - started)
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while stream.read(2**24):
                pass
        rates[1] = len(content) / 1e9 / (time.perf_counter() - started)
        file.unlink()
    dist.barrier()
    return rates[0], rates[1]


def decode_seconds(model_path: Path) -> float:
    """One further token for each text of a batch."""
    model = load_model(str(model_path), dtype_on(default_device()), default_device()).eval()
    ids = torch.randint(3, 250, (BATCH, 128), device=model.device)

    def write(n: int) -> float:
        options = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "pad_token_id": 0}
        return median_seconds(lambda: model.generate(input_ids=ids, **options), model.device)

    with torch.inference_mode():
        return (write(24) - write(8)) / 16


def memory_gib(device: torch.device) -> float:
    """Memory of a GPU, or of the machine for each process."""
    if device.type == "cuda":
        return rounded(torch.cuda.get_device_properties(device).total_memory / 2**30)
    return rounded(psutil.virtual_memory().total / 2**30 / int(os.environ["LOCAL_WORLD_SIZE"]))


def name_of(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def section(figures: dict[str, Any]) -> str:
    """The `hardware` section as YAML."""
    lines = [f"  {name}: {json.dumps(value)}" for name, value in figures.items()]
    return "\n".join(["hardware:", *lines])


def main() -> None:
    """One process of the measurement."""
    started = time.time() - float(os.environ["CALIBRATION_STARTED"])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with distributed_processes():
        figures = measure(folder, started)
        if dist.get_rank() == 0:
            (folder / "figures.json").write_text(json.dumps(figures), encoding="utf-8")
        dist.barrier()


if __name__ == "__main__":
    main()
