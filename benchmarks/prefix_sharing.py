"""Training and scoring with shared prefixes computed once, against packed rows and one sample at a time.

    python -m benchmarks.prefix_sharing                              # about 8 minutes on two cores
    python -m benchmarks.prefix_sharing --cornell data/cornell --plot docs/prefix-sharing.png

Synthetic users with so many reviews each, prompts with profile and history, a Qwen3-MoE of 1.4 M parameters and a
vocabulary of 2,048, one process, torch's threads as `OMP_NUM_THREADS` says; on a GPU where there is one. Tokens are
counted on all users of a case; seconds are those of forward and backward of some of their optimizer steps (users
together, about 64 samples), all ways turn by turn, the best of the rounds. The last line is one JSON object; its
`packed_over_shared_*` are of 1,000 users with 50 reviews in the `detailed` style.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # to be run by its path as well
from benchmarks.corpus import CUE, ROOT, TASK, prompts_with_history, write_long_histories
from benchmarks.training import forget_peak_memory, peak_memory_gib
from persona.evaluation.scoring.pairs import Pairs
from persona.ingestion.ingest import Ingested, ingest, load
from persona.ingestion.settings import Options
from persona.modeling import attention
from persona.modeling.loading import default_device, dtype_on, load_model
from persona.modeling.loss import CompletionLoss
from persona.modeling.packing import RowPlan, TokenTable, pack_row, plan_rows, tokens_to_compute
from persona.modeling.prefix_tree import Layout, PrefixOrder
from persona.modeling.tiny import moe_config, train_tokenizer
from persona.prompts import Parts, PromptSpec, load_style, render
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize
from persona.training.loop import step_targets
from persona.training.settings import Schedule

REVIEWS = [2, 5, 10, 20, 50, 100]
HEADLINE = 50
STEP = 64  # samples
ROW = 8192  # tokens
UNTRIMMED = 8192


@dataclass(frozen=True)
class Case:
    """One kind of data, and what its training computes."""

    name: str
    style: str
    reviews: int | None
    samples: int | None
    users: int
    tokens: dict[str, int]  # of all samples, by way
    seconds: dict[str, float]  # of the timed samples, by way
    gib: dict[str, float]
    timed_samples: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1000, help=f"with {HEADLINE} reviews; the others are a fifth")
    parser.add_argument("--steps", type=int, default=1, help="optimizer steps that are timed in each case")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cornell", type=Path, help="folder of the Cornell Movie-Dialogs")
    parser.add_argument("--plot", type=Path, help="write a picture")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, cases = measure(Path(folder), args)
    if args.plot:
        plot(cases, args.plot)
    print(json.dumps(figures))


def measure(folder: Path, args: argparse.Namespace) -> tuple[dict[str, Any], list[Case]]:
    """All cases, and the JSON of their figures."""
    headline = long_histories(folder, args.users, HEADLINE)
    tokenizer = train_tokenizer(headline.interactions["text"].head(20_000).to_list(), 2048)
    loss = new_model(folder / "model", tokenizer)
    first = tokens_of(headline, "detailed", tokenizer)
    cases = [case(loss, first, args, style="detailed", reviews=HEADLINE)]
    show(cases[0])
    fewer = [(HEADLINE, style, k) for style in ("detailed", "simple") for k in (2, 5)]
    more = [
        (n, style, None) for style in ("detailed", "simple") for n in REVIEWS if (n, style) != (HEADLINE, "detailed")
    ]
    for n, style, k in [*more, *fewer]:
        users = max(1, args.users // 5)
        tables = headline if n == HEADLINE else long_histories(folder, users, n)
        table = tokens_of(tables, style, tokenizer, users=users, samples=k)
        cases.append(case(loss, table, args, style=style, reviews=n, samples=k))
        show(cases[-1])
    if args.cornell:
        cases.append(
            case(loss, dialogue(folder, args.cornell, len(tokenizer)), args, name="Chameleons", style="dialogue")
        )
        show(cases[-1])
    top = cases[0]
    figures = {
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "packed_over_shared_tokens": top.tokens["packed"] / top.tokens["shared"],
        "shared_over_packed_samples_per_s": top.seconds["packed"] / top.seconds["shared"],
        "shared_over_dense_samples_per_s": top.seconds["dense"] / top.seconds["shared"],
        "packed_over_shared_tokens_chameleons": next(
            (c.tokens["packed"] / c.tokens["shared"] for c in cases if c.name == "Chameleons"), None
        ),
        "windows": windows(folder, max(1, args.users // 5), tokenizer),
        "scoring": scoring(loss, first),
        "cases": [asdict(each) for each in cases],
    }
    return figures, cases


# The data.


def long_histories(folder: Path, n_users: int, n_reviews: int) -> Ingested:
    path, out = folder / "DMSC.csv", folder / f"{n_reviews}_reviews"
    write_long_histories(path, n_users, n_reviews)
    ingest(path, "dmsc_csv", out, Options(), 1.0)
    return load(out)


def tokens_of(
    tables: Ingested,
    style: str,
    tokenizer: Any,
    users: int | None = None,
    samples: int | None = None,
    max_length: int = UNTRIMMED,
    window: Literal["anchored", "recent"] = "anchored",
) -> TokenTable:
    """Targets of the first users, of each `samples` that are spread over the reviews, or all."""
    targets = tables.interactions
    if users:
        targets = targets.filter(pl.col("user_id").rank("dense") <= users)
    if samples:
        chosen = pl.int_range(pl.len()).shuffle(seed=1).over("user_id") < samples
        targets = targets.filter(chosen)
    prompts = prompts_with_history(tables, style, targets)
    return TokenTable.from_frame(
        tokenize(prompts, tokenizer, FitSettings(max_length=max_length, history_window=window))
    )


def dialogue(folder: Path, path: Path, vocab_size: int) -> TokenTable:
    """The lines of the dialogues, with profile, history and context, as the workflow makes them."""
    ingest(path, "cornell", folder / "cornell", Options(), 1.0)
    tables = load(folder / "cornell")
    tokenizer = train_tokenizer(tables.interactions["text"].to_list(), vocab_size)
    style = load_style(ROOT / "config" / "prompts" / "dialogue.yaml")
    parts = Parts(profile=True, history=True, context=True)
    spec = PromptSpec(style, parts, TASK, CUE)
    prompts = render(tables.interactions, tables.interactions, tables.users, tables.items, spec)
    return TokenTable.from_frame(tokenize(prompts, tokenizer, FitSettings(max_length=1024)))


def new_model(folder: Path, tokenizer: Any) -> CompletionLoss:
    from transformers import Qwen3MoeForCausalLM

    torch.manual_seed(0)
    Qwen3MoeForCausalLM(moe_config(tokenizer, 128, 2, 16)).save_pretrained(folder)
    device = default_device()
    return CompletionLoss(load_model(str(folder), dtype_on(device), device)).train()


# Training.


def case(
    loss: CompletionLoss,
    table: TokenTable,
    args: argparse.Namespace,
    style: str,
    name: str = "",
    reviews: int | None = None,
    samples: int | None = None,
) -> Case:
    """Count all steps of an epoch and time a few."""
    schedule = Schedule(samples_per_step=STEP, max_tokens_per_gpu=ROW, max_epochs=1, seed=0, batch_by="user")
    steps = step_targets(table.users, schedule, epoch=0)
    shared = [plan_rows(table, step, 1, ROW, True)[0] for step in steps]
    single = int(table.computed_lengths.sum())
    timed = range(min(args.steps, len(steps)))
    rows = {
        "single": [row for n in timed for row in plan_rows(table, steps[n], 1, 1, False)[0]],
        "packed": [row for n in timed for row in plan_rows(table, steps[n], 1, ROW, False)[0]],
        "shared": [row for n in timed for row in shared[n]],
    }
    ways: dict[str, Callable[[], None]] = {
        way: lambda some=some: forward_and_backward(loss, table, some)  # type: ignore[misc]
        for way, some in rows.items()
    }
    ways["dense"] = lambda: densely(ways["shared"])
    seconds, gib = turn_by_turn(ways, args.rounds)
    return Case(
        name=name or f"{reviews} reviews, {samples or 'all'} samples, {style}",
        style=style,
        reviews=reviews,
        samples=samples,
        users=len(np.unique(table.users)),
        tokens={"single": single, "packed": single, "shared": sum(tokens_to_compute(table, of) for of in shared)},
        seconds=seconds,
        gib=gib,
        timed_samples=sum(len(steps[n]) for n in timed),
    )


def forward_and_backward(loss: CompletionLoss, table: TokenTable, rows: list[RowPlan]) -> None:
    for planned in rows:
        loss(pack_row(table, planned.members, planned.shared).to(loss.model.device)).sum().backward()
    loss.zero_grad()


def densely(work: Callable[[], None]) -> None:
    """The same with a dense mask over each row in place of attention run by run."""
    run_by_run = attention._attend_run_by_run
    attention._attend_run_by_run = attend_densely
    work()
    attention._attend_run_by_run = run_by_run


def attend_densely(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float, dropout: float
) -> torch.Tensor:
    place = torch.arange(len(layout.ends), device=query.device)
    ends = torch.from_numpy(layout.ends).to(query.device)
    sees = (place <= place[:, None]) & (place[:, None] < ends)
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, sees, scale=scale, enable_gqa=True)
    return found.transpose(1, 2).contiguous()


def turn_by_turn(ways: dict[str, Callable[[], None]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """The shortest time of each way, and its peak memory."""
    seconds, gib = dict.fromkeys(ways, np.inf), dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for way, work in ways.items():
            forget_peak_memory()
            started = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[way] = min(seconds[way], time.perf_counter() - started)
            gib[way] = max(gib[way], peak_memory_gib())
    return seconds, gib


# History windows, and scoring.


def windows(folder: Path, n_users: int, tokenizer: Any) -> dict[str, Any]:
    """Histories of 100 reviews that outgrow 1,024 tokens: what each window lets share, and what it keeps."""
    tables = load(folder / "100_reviews")
    found = {}
    for window in ("recent", "anchored"):
        table = tokens_of(tables, "detailed", tokenizer, users=n_users, max_length=1024, window=window)  # type: ignore[arg-type]
        steps = step_targets(
            table.users,
            Schedule(samples_per_step=STEP, max_tokens_per_gpu=ROW, max_epochs=1, seed=0, batch_by="user"),
            epoch=0,
        )
        shared = sum(tokens_to_compute(table, plan_rows(table, step, 1, ROW, True)[0]) for step in steps)
        packed = int(table.computed_lengths.sum())
        found[window] = {"packed_tokens": packed, "shared_tokens": shared, "packed_over_shared": packed / shared}
        print(f"window {window:<10} {packed:>12,} tokens packed {shared:>12,} shared  {packed / shared:.2f}")
    return found


def scoring(loss: CompletionLoss, table: TokenTable, n_blocks: int = 4, block: int = 12) -> dict[str, float]:
    """Blocks of targets under each other's prompts, and five one-token answers: forward passes alone."""
    last = np.flatnonzero(np.diff(table.users, append=-1))[: n_blocks * block]
    prompts = [table[n][: table.prompt_lengths[n]] for n in last]
    texts = [table[n][table.prompt_lengths[n] :] for n in last] + [np.array([n]) for n in range(3, 8)]
    asked = [
        (prompt, text)
        for prompt in range(len(last))
        for text in [*range(prompt - prompt % block, prompt - prompt % block + block), *range(len(last), len(texts))]
    ]
    pairs = Pairs(prompts, texts, np.array(asked))
    order = pairs.order
    figures: dict[str, float] = {"pairs": len(order.members)}
    with torch.inference_mode():
        for way, shared in {"packed": np.zeros_like(order.shared), "shared": order.shared}.items():
            pairs.order = PrefixOrder(order.members, order.lengths, shared)
            started = time.perf_counter()
            for start, stop in pairs.order.cut(ROW):
                loss(pairs.row(start, stop).to(loss.model.device))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            figures[f"{way}_s"] = time.perf_counter() - started
            figures[f"{way}_tokens"] = int((order.lengths - shared).sum())
    figures["packed_over_shared_tokens"] = figures["packed_tokens"] / figures["shared_tokens"]
    figures["shared_over_packed_pairs_per_s"] = figures["packed_s"] / figures["shared_s"]
    print("scoring", figures)
    return figures


# What to look at.


def show(of: Case) -> None:
    tokens, seconds = of.tokens, of.seconds
    print(
        f"{of.name:<42} tokens a user {tokens['packed'] / of.users:>9,.0f} packed "
        f"{tokens['shared'] / of.users:>7,.0f} shared "
        f"({tokens['packed'] / tokens['shared']:.2f} times fewer); {of.timed_samples} samples in "
        + ", ".join(f"{way} {seconds[way]:.2f} s {of.gib[way]:.2f} GiB" for way in seconds)
        + f"; {seconds['packed'] / seconds['shared']:.2f} times as fast",
        flush=True,
    )


def plot(cases: list[Case], path: Path) -> None:
    """Tokens a user and samples a second over reviews a user."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4))
    tokens, speed = figure.subplots(1, 2)
    for style, dash in (("detailed", "-"), ("simple", "--")):
        some = sorted((c for c in cases if c.style == style and not c.samples), key=lambda c: c.reviews or 0)
        reviews = [c.reviews for c in some]
        for way, colour, marker in (("single", "#888888", "s"), ("packed", "#c44e52", "o"), ("shared", "#2a6fbb", "D")):
            look = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 4}
            if way != "single":
                per_user = [c.tokens[way] / c.users for c in some]
                tokens.plot(reviews, per_user, label=f"{way}, {style}", **look)
            speed.plot(reviews, [c.timed_samples / c.seconds[way] for c in some], label=f"{way}, {style}", **look)
    for axes, title in ((tokens, "tokens computed a user"), (speed, "samples a second")):
        axes.set(xscale="log", yscale="log", xlabel="reviews a user, all trained on", title=title)
        axes.set_xticks(REVIEWS, [str(n) for n in REVIEWS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    speed.legend(fontsize=8)
    tokens.legend(fontsize=8)
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
