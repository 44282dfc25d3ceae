"""What docs/results.md shows of a finished `make laptop`: files, time and memory, measures, and lines drawn at random.

    python -m benchmarks.laptop_results results/chameleons data/cornell models/SmolLM2-135M-Instruct

Everything is read from the files of the run. Times and memory are those that Snakemake measured of each job.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl

from persona.files import file_digest

SEED, LINES = 19, 10
STAGE = "full"


def table(rows: list[list[Any]]) -> str:
    head, *rest = [[str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))


def digests(results: Path, data: Path, model: Path) -> str:
    scored = sorted(results.glob("evaluation/**/*.parquet")) + sorted(results.glob("untrained/**/*.parquet"))
    files = [
        *sorted(data.glob("*.txt")),
        model / "model.safetensors",
        model / "tokenizer.json",
        results / "targets.parquet",
        *scored,
    ]
    rows = [[f"`{file.relative_to(folder.parent)}`", f"`{file_digest(file)[:16]}`"] for file in files
            for folder in (data, model, results) if file.is_relative_to(folder)]  # fmt: skip
    return table([["file", "SHA-256, first 16 digits"], *rows])


def jobs(results: Path) -> str:
    """Seconds and peak memory of the jobs, the longest first."""
    folder = results / "benchmarks"
    found = []
    for file in folder.rglob("*.tsv"):
        row = pl.read_csv(file, separator="\t", null_values="NA").row(0, named=True)
        found.append((str(file.relative_to(folder).with_suffix("")), row["s"], row["cpu_time"], row["max_rss"]))
    found.sort(key=lambda job: -job[1])
    total = ["all", f"{sum(job[1] for job in found):,.0f}", f"{sum(job[2] or 0 for job in found):,.0f}", ""]
    rows = [[name, f"{s:,.0f}", f"{cpu or 0:,.0f}", f"{(rss or 0) / 1024:.2f}"] for name, s, cpu, rss in found[:14]]
    return table([["job", "seconds", "CPU-seconds", "peak memory, GiB"], *rows, total])


def drawn_lines(results: Path) -> str:
    """Texts of the trained and the untrained model beside the real ones."""
    trained = next((results / "evaluation").rglob(f"{STAGE}/*/generations.parquet"))
    untrained = next((results / "untrained" / STAGE).rglob("generations.parquet"))
    targets = pl.read_parquet(results / "targets.parquet").select("interaction_id", "item_id", real="text")
    titles = pl.read_parquet(results / "items.parquet").select("item_id", "title")
    written = [
        pl.read_parquet(file).filter(pl.col("method") == "greedy").select("interaction_id", pl.col("text").alias(name))
        for name, file in (("trained", trained), ("untrained", untrained))
    ]
    both = (
        written[0].join(written[1], on="interaction_id").join(targets, on="interaction_id").join(titles, on="item_id")
    )
    chosen = both.sort("interaction_id").sample(LINES, seed=SEED)
    rows = [
        [clean(row[name]) for name in ("title", "untrained", "trained", "real")] for row in chosen.iter_rows(named=True)
    ]
    return table([["film", "untrained model", "trained model", "the real line"], *rows])


def clean(text: str) -> str:
    return " / ".join(text.replace("|", "\\|").split("\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("results", "data", "model"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    manifest = json.loads(next(args.results.glob(f"models/*/{STAGE}/*/manifest.json")).read_text(encoding="utf-8"))
    print(f"commit {manifest['commit']}, {manifest['hardware']}, {json.dumps(manifest['versions'])}\n")
    for name in ("stages", "methods", "phases"):
        print(f"## {name}\n\n{(args.results / 'report' / f'{name}.md').read_text(encoding='utf-8').strip()}\n")
    print(f"## jobs\n\n{jobs(args.results)}\n")
    print(f"## lines\n\n{drawn_lines(args.results)}\n")
    print(f"## files\n\n{digests(args.results, args.data, args.model)}")


if __name__ == "__main__":
    main()
