"""The data steps at full size: seconds, rows and tokens a second, and peak memory of each, as the workflow runs them.

    python -m benchmarks.data_pipeline            # about 5 minutes on two cores, 4 GB of disk
    python -m benchmarks.data_pipeline --users 20000

Data: a synthetic DMSC of 738,701 users and about 2.12 million rows; smaller ones of a tenth and a hundredth, which
show how the seconds grow; and 1,000 users with 50 reviews each, with whose prompts the usual training script's loop is
compared: it builds each prompt by itself and tokenizes it three times. The vocabulary is Qwen's,
and in this comparison also one of GPT-2's kind.

The last line is one JSON object. `raw_to_samples_*` covers ingest, split and all five samples, one process after the
other, start of Python included. `prompts_over_loop_samples_per_s` is samples a second of rendering and tokenizing from
Parquet to Parquet over those of the loop, both in this process and without loading the tokenizer, the best of three.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from persona.prompts import Parts, PromptSpec, load_style, render_file
from persona.tables import schemas
from persona.tables.parquet import count_rows, read_table, table_writer
from persona.tokenization.chat import chat_frame, encode, load_tokenizer
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize_file

sys.path.insert(0, str(Path(__file__).parents[1]))  # to be run by its path as well
from benchmarks.corpus import CUE, ROOT, TASK, gpt2_tokenizer, qwen_tokenizer, write_long_histories

RELEASE_USERS = 738_701
LIMIT = 3 << 30  # bytes of address space
MAX_LENGTH = 2048
FIT = FitSettings(max_length=MAX_LENGTH)
PARTS = {"profile": True, "history": True, "context": False, "user": True}
STYLE = ROOT / "config" / "prompts" / "detailed.yaml"
SAMPLES: dict[str, tuple[str, int | None, int | None]] = {
    "two_per_user": ("train", 2, None),
    "five_per_user": ("train", 5, None),
    "everything": ("train", None, None),
    "val": ("val", 2, 2000),
    "test": ("test", 2, 2000),
}


@dataclass(frozen=True)
class Step:
    """What a step took, and the peak of its resident memory."""

    name: str
    seconds: float
    gib: float


def run(name: str, script: str, *arguments: object, limit: int | None = None) -> Step:
    """Run one of the workflow's commands, with at most `limit` bytes of address space."""

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit or 0, limit or 0))

    command = [sys.executable, str(ROOT / "workflow" / "scripts" / script), *map(str, arguments)]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, preexec_fn=confine if limit else None, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    errors = process.stderr.read().decode() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name}: {errors.strip().splitlines()[-1]}")
    return Step(name, time.perf_counter() - start, usage.ru_maxrss / 2**20)


def raw_to_samples(raw: Path, folder: Path, limit: int | None = None) -> list[Step]:
    tables = folder / "interactions.parquet", folder / "split.parquet"
    options = ["--options", "{}", "--max-reject-share", 1.0]
    steps = [run("ingest", "ingest.py", raw, "--format", "dmsc_csv", "--folder", folder, *options, limit=limit)]
    ratios = {"by": "user", "val_ratio": 0.1, "test_ratio": 0.1, "seed": 42}
    options = ["--settings", json.dumps(ratios), "--min-reviews", 1]
    steps.append(run("split", "split.py", *tables, *options, limit=limit))
    for name, (split, most, users) in SAMPLES.items():
        choice = {"max_samples_per_user": most, "max_users": users, "min_history": 0, "sample_seed": 42}
        settings = {"split_name": split, **choice}
        output = folder / "samples" / f"{name}.parquet"
        steps.append(
            run(f"sample {name}", "sample.py", *tables, output, "--settings", json.dumps(settings), limit=limit)
        )
    return steps


def render(folder: Path, limit: int | None = None) -> Step:
    """Prompts of all training reviews, with profile, history and its texts."""
    names = ("interactions", "split", "users", "items")
    tables = [part for name in names for part in (f"--{name}", folder / f"{name}.parquet")]
    sample, prompts = folder / "samples" / "everything.parquet", folder / "prompts.parquet"
    style = ["--style", STYLE, "--prompt", json.dumps({"parts": PARTS, "task": TASK, "cue": CUE})]
    tables += ["--split-name", "train"]
    return run("render", "render.py", prompts, "--sample", sample, *tables, *style, limit=limit)


def tokenize(folder: Path, tokenizer: Path) -> Step:
    files = folder / "prompts.parquet", folder / "t.parquet"
    return run(
        "tokenize", "tokenize_prompts.py", *files, "--model", tokenizer, "--fit", json.dumps({"max_length": MAX_LENGTH})
    )


def show(steps: list[Step], rows: int, tokens: int) -> None:
    for step in steps:
        rate = f"{tokens / step.seconds:>13,.0f} tokens/s" if step.name == "tokenize" else ""
        print(f"  {step.name:<22}{step.seconds:>8.2f} s{rows / step.seconds:>13,.0f} rows/s{step.gib:>7.2f} GiB{rate}")


def measure(users: int, folder: Path, tokenizer: Path) -> dict[str, Any]:
    """All steps for a release of so many users."""
    folder.mkdir()
    raw = folder / "DMSC.csv"
    # In a process of its own: what this one holds would count as the peak of those that it starts.
    run("generate", "generate_data.py", raw, "--users", users, "--seed", 42, "--habits", "own", "--min-reviews", 1)
    steps = raw_to_samples(raw, folder)
    rows = json.loads((folder / "ingest.json").read_text())["rows"]
    more = [render(folder), tokenize(folder, tokenizer)]
    tokens = pl.scan_parquet(folder / "t.parquet").select(pl.col("input_ids").list.len().cast(pl.Int64).sum()).collect()
    print(f"{rows:,} rows, {raw.stat().st_size / 1e6:,.0f} MB; {tokens.item():,} tokens")
    show([*steps, *more], rows, tokens.item())
    return {
        "rows": rows,
        "raw_to_samples_s": sum(step.seconds for step in steps),
        "raw_to_samples_peak_gib": max(step.gib for step in steps),
        "samples_to_tokens_s": sum(step.seconds for step in more),
        "samples_to_tokens_peak_gib": max(step.gib for step in more),
    }


def prompts_per_second(folder: Path, tokenizer: Any) -> float:
    """Samples a second of rendering and tokenizing, from Parquet to Parquet."""
    names = ["samples/everything", "interactions", "users", "items"]
    sample, interactions, users, items = (folder / f"{name}.parquet" for name in names)
    prompts, tokens = folder / "p.parquet", folder / "t.parquet"
    start = time.perf_counter()
    with table_writer(prompts, schemas.PROMPTS) as writer:
        style = load_style(STYLE)
        spec = PromptSpec(style, Parts(**PARTS), TASK, CUE)
        for table in render_file(sample, interactions, users, items, spec):
            writer.write(table)
    with table_writer(tokens, schemas.TOKENS) as writer:
        for table in tokenize_file(prompts, tokenizer, FIT):
            writer.write(table)
    return count_rows(tokens) / (time.perf_counter() - start)


def loop_per_second(folder: Path, tokenizer: Any, n: int) -> float:
    """Samples a second of a loop that builds each prompt and tokenizes it three times, as training scripts do.

    Once to see whether it is too long, once with the completion, cut and padded to `MAX_LENGTH` as a tensor, once alone
    for the length of what has no loss. Checks that the tokens of samples of which nothing was dropped are the same.
    """
    users: dict[str, list[dict[str, Any]]] = {}
    titles = dict(read_table(folder / "items.parquet", schemas.ITEMS).select("item_id", "title").iter_rows())
    for review in read_table(folder / "interactions.parquet", schemas.INTERACTIONS).iter_rows(named=True):
        users.setdefault(review["user_id"], []).append(review)
    profiles = dict(read_table(folder / "users.parquet", schemas.USERS).iter_rows())
    tokens = read_table(folder / "t.parquet", schemas.TOKENS)
    chosen = tokens.gather_every(max(1, tokens.height // n)).head(n)
    frame = chat_frame(tokenizer)
    seconds = 0.0
    for row in chosen.iter_rows(named=True):
        start = time.perf_counter()
        reviews = users[row["user_id"]]
        target = next(r for r in reviews if r["interaction_id"] == row["interaction_id"])
        history = sorted((r for r in reviews if r["day"] < target["day"]), key=lambda r: r["day"])
        lines = [f"[USER_HASH={row['user_id']}]", "", "[USER_PROFILE]"]
        lines += [f"[USER_{field['field'].upper()}={field['value']}]" for field in profiles[row["user_id"]]]
        if history:
            lines += ["", "[HISTORY]"]
        for number, entry in enumerate(history, start=1):
            text = " ".join(entry["text"].splitlines())
            title, stars = titles[entry["item_id"]], entry["rating"]
            lines.append(f"{number}. [{title}] {entry['day']} 评分：{stars} 影评：{text}")
        lines += ["", "[TASK]", TASK, "", "[MOVIE]", titles[target["item_id"]], "", CUE]
        prompt = frame.before + "\n".join(lines) + frame.between
        whole = prompt + target["text"] + frame.end
        n_tokens = len(tokenizer(whole, add_special_tokens=False)["input_ids"])
        batch = tokenizer(
            whole,
            add_special_tokens=False,
            truncation=True,
            max_length=MAX_LENGTH,
            padding="max_length",
            return_tensors="pt",
        )
        length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        seconds += time.perf_counter() - start
        ids = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
        fits = length + max(n_tokens - length, FIT.reserve) <= MAX_LENGTH
        if fits and (ids, length) != (row["input_ids"], row["prompt_length"]):
            raise SystemExit(f"interaction {row['interaction_id']}: the loop's tokens are others")
    return chosen.height / seconds


def compare(folder: Path, name: str, tokenizer: Any, n: int) -> tuple[float, float]:
    """Samples a second of the workflow's steps and of the loop, the best of three."""
    encode(tokenizer, ["warm"], special=False)
    # The first time of each warms up what is allocated once.
    ours = max(prompts_per_second(folder, tokenizer) for _ in range(3))
    loop = max(loop_per_second(folder, tokenizer, n) for _ in range(3))
    print(f"50 reviews a user, {name}: {ours:,.0f} samples/s, loop {loop:,.0f} samples/s")
    return ours, loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=RELEASE_USERS)
    parser.add_argument("--long-users", type=int, default=1000, help="with 50 reviews each")
    parser.add_argument("--loop-samples", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".data-pipeline-") as place:
        folder = Path(place)
        qwen_tokenizer().save_pretrained(folder / "qwen")
        sizes = [args.users // 100, args.users // 10, args.users]
        measured = [measure(users, folder / str(users), folder / "qwen") for users in sizes]
        small, middle, full = measured
        # Seconds for each further row, from the middle to the full size over from the small to the middle one.
        growth = {
            key: (full[key] - middle[key]) / (full["rows"] - middle["rows"])
            / ((middle[key] - small[key]) / (middle["rows"] - small["rows"]))
            for key in ("raw_to_samples_s", "samples_to_tokens_s")
        }  # fmt: skip
        confined = folder / "confined"
        confined.mkdir()
        limited = [*raw_to_samples(folder / str(args.users) / "DMSC.csv", confined, LIMIT), render(confined, LIMIT)]
        print(f"under {LIMIT >> 30} GiB of address space: {sum(step.seconds for step in limited):.1f} s to the prompts")

        long = folder / "long"
        long.mkdir()
        write_long_histories(long / "DMSC.csv", args.long_users, 50)
        raw_to_samples(long / "DMSC.csv", long)
        texts = read_table(long / "interactions.parquet", schemas.INTERACTIONS)["text"].head(20_000).to_list()
        ours, loop = compare(long, "Qwen", load_tokenizer(str(folder / "qwen")), args.loop_samples)
        gpt2, gpt2_loop = compare(long, "GPT-2's kind", gpt2_tokenizer(texts, 20_000), args.loop_samples)
    figures = {
        **full,
        "seconds_a_row_growth": growth,
        "limit_gib": LIMIT >> 30,
        "under_limit_s": sum(step.seconds for step in limited),
        "prompts_samples_per_s": ours,
        "loop_samples_per_s": loop,
        "prompts_over_loop_samples_per_s": ours / loop,
        "gpt2_prompts_samples_per_s": gpt2,
        "gpt2_prompts_over_loop_samples_per_s": gpt2 / gpt2_loop,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
