"""A user with very many texts through the data steps: seconds and peak memory of each, as Snakemake runs them.

    python -m benchmarks.busy_users                   # about 30 minutes on two cores, 3 GB of disk
    python -m benchmarks.busy_users --texts 5000 --users 20

Data: one user with `--texts` short messages, and one with a fifth of them, which shows how the seconds grow; then
`--users` users with a tenth of them each. Days decide the split, so nearly all texts are training samples with the
history before them. The model is a tiny one with a context of 2,048 tokens.

The last line is one JSON object: seconds and peak memory by step, and `seconds_growth`: the seconds of all steps for
five times the texts of one user over five times the seconds, so 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
WORDS = [
    "the", "a", "my", "we", "you", "they", "it", "that", "this", "there", "here", "now", "then", "again",
    "maybe", "never", "always", "really", "just", "so", "well", "yes", "no", "ok", "fine", "train", "coffee",
    "rain", "work", "home", "dinner", "meeting", "garden", "music", "game", "song", "picture", "phone", "city",
    "river", "bike", "walk", "read", "write", "late", "early", "tired", "happy", "sorry", "thanks", "tomorrow",
    "today", "yesterday", "monday", "sunday", "see", "know", "think", "want", "need", "like", "love",
]  # fmt: skip
FIRST_DAY, PER_DAY = date(2000, 1, 1), 20
RESULT = "results/busy"
STEPS = {
    "ingest": ["interactions.parquet"],
    "split and samples": ["split.parquet", *[f"samples/{name}.parquet" for name in ("everything", "val", "test")]],
    "render": [f"prompts/{name}/history.parquet" for name in ("everything", "val", "test")],
    "audit": ["audit/everything.json", *[f"audit/{name}/history.json" for name in ("everything", "val", "test")]],
    "tiny model": ["base_models/tiny/config.json"],
    "tokenize": [f"tokens/{name}/history/tiny.parquet" for name in ("everything", "val", "test")],
    "targets and baselines": ["targets.parquet", "baselines/ngram.parquet"],
    "plan": ["plan/plan.md"],
}


def write_texts(path: Path, n_users: int, n_texts: int) -> None:
    """Messages of some words, 20 a day, about 50 things."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for user in range(n_users):
            for n in range(n_texts):
                day = FIRST_DAY + timedelta(days=n // PER_DAY)
                text = " ".join(rng.choices(WORDS, k=rng.randint(3, 14)))
                row = {"user": f"u{user}", "item": f"thing {rng.randrange(50)}", "day": f"{day}", "rating": 3, "id": n}
                file.write(json.dumps(row | {"text": text}) + "\n")


def configuration(n_users: int, n_texts: int) -> dict[str, object]:
    """The test texts are of the last 2 % of the days, up to 1,000."""
    days = n_texts // PER_DAY
    val_from, test_from = (FIRST_DAY + timedelta(days=int(days * share)) for share in (0.96, 0.98))
    style = {"use_profile": False, "use_history": True, "use_context": False, "prompt_style": "english"}
    dataset = {"format": "jsonl", "path": "busy.jsonl", "task": "Write the message.", "cue": "The message:"}
    cohort = {"max_users": None, "max_samples_per_user": max(1, 1000 // n_users)}
    tiny = {"vocab_size": 1000, "corpus_sample": "twenty", "corpus_ablation": "history"}
    return {
        "dataset": "busy",
        "datasets": {"busy": dataset | {"rating_cue": None, "max_reject_share": 0.0}},
        "split": {"by": "time", "val_from": f"{val_from}", "test_from": f"{test_from}"},
        "cohorts": {"val": cohort, "test": cohort},
        "samples": {"everything": {"max_samples_per_user": None}, "twenty": {"max_samples_per_user": 20}},
        "ablations": {"history": style},
        "models": {"tiny": {"tiny": tiny, "max_length": 2048}},
        "recipes": {"tiny": {"model": "tiny", "deepspeed": "zero3_cpu", "cpu_processes": 1, "learning_rate": 1e-3,
                             "max_epochs": 1}},
        "stages": {"history": {"sample": "everything", "ablation": "history", "recipe": "tiny"}},
        "audit": dict.fromkeys(
            ["near_duplicate", "quoted_in_training", "repeated_in_history", "quoted_in_history"], 1.0
        ),
    }  # fmt: skip


def measure(n_users: int, n_texts: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and GiB of each step."""
    seconds, peaks = {}, {}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".busy-users-") as place:
        folder = Path(place)
        write_texts(folder / "busy.jsonl", n_users, n_texts)
        (folder / "busy.yaml").write_text(yaml.safe_dump(configuration(n_users, n_texts)))
        for step, files in STEPS.items():
            targets = [f"{RESULT}/{file}" for file in files]
            command = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile")]
            command += ["--cores", "1", "--configfile", "busy.yaml", "--", *targets]
            environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            start = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            output = process.stdout.read().decode() if process.stdout else ""
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{step}: {output[-1500:]}")
            # The peak of the largest process that Snakemake started.
            seconds[step], peaks[step] = time.perf_counter() - start, usage.ru_maxrss / 2**20
            print(f"  {step:<24}{seconds[step]:>8.1f} s{peaks[step]:>8.2f} GiB", flush=True)
    return seconds, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=200)
    args = parser.parse_args()
    figures: dict[str, object] = {"texts": args.texts, "users": args.users}
    print(f"one user, {args.texts // 5:,} texts")
    small, _ = measure(1, args.texts // 5)
    print(f"one user, {args.texts:,} texts")
    large, peaks = measure(1, args.texts)
    figures |= {"one_user_seconds": large, "one_user_peak_gib": peaks}
    figures["seconds_growth"] = sum(large.values()) / (5 * sum(small.values()))
    if args.users:
        print(f"{args.users} users, {args.texts // 10:,} texts each")
        seconds, peaks = measure(args.users, args.texts // 10)
        figures |= {"many_users_seconds": seconds, "many_users_peak_gib": peaks}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
