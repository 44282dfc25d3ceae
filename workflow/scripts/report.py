"""Write the report of all stages from their rows, metrics and manifests."""

import argparse
import json
from pathlib import Path

import polars as pl

from persona.errors import run_command
from persona.evaluation.baselines.baselines import best_author_baseline
from persona.evaluation.claims import claim
from persona.evaluation.comparison import compare
from persona.evaluation.metrics.stars import why_no_stars
from persona.evaluation.settings import Contrast
from persona.files import write_json, write_text
from persona.reporting import dose
from persona.reporting.card import card, place_card
from persona.reporting.evidence import Evidence
from persona.reporting.plots import pictures
from persona.reporting.report import page
from persona.reporting.stages import baseline_table, load_stages, phase_table, stage_table
from persona.reporting.text_tables import as_markdown, short_table
from persona.reporting.verdict import verdict
from persona.splitting import LEFT_OUT
from persona.study import DESCRIPTION, described_stage
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.tables.splits import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stages", type=json.loads, required=True)
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--baselines", type=Path, required=True, help="folder of their tables and metrics")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--ingested", type=Path, required=True, help="the counts of the ingestion")
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--dataset", required=True, help="its name")
    parser.add_argument("--contrasts", type=json.loads, required=True)
    parser.add_argument("--candidates", type=int, required=True)
    parser.add_argument(
        "--caution",
        type=json.loads,
        required=True,
        help="JSON: [English, Chinese] warning, or null",
    )
    args = parser.parse_args()
    baselines = json.loads((args.baselines / "metrics.json").read_text(encoding="utf-8"))
    authors = read_table(args.baselines / "authors.parquet", schemas.AUTHORS)
    guesses = read_table(args.baselines / "ratings.parquet", schemas.RATINGS)
    targets = read_table(args.targets, schemas.TARGETS)
    titles = dict(read_table(args.items, schemas.ITEMS).select("item_id", "title").drop_nulls().iter_rows())
    plan, ingested = (json.loads(path.read_text(encoding="utf-8")) for path in (args.plan, args.ingested))
    split = read_split(args.split)
    ingested["left_out"] = split.filter(pl.col("split") == LEFT_OUT)["user_id"].n_unique()
    ngram = read_table(args.baselines / "ngram.parquet", schemas.SCORES)
    author_baseline = best_author_baseline(authors, ngram, args.candidates)
    free, k = author_baseline[1], args.candidates
    stages = load_stages(args.stages, plan, lambda seeds: claim(seeds, free, guesses, targets, k))
    contrasts = compare(
        {stage.name: stage.seeds for stage in stages},
        [Contrast.model_validate(contrast) for contrast in args.contrasts],
        {stage.name: stage.untrained.scores for stage in stages},
    )
    evidence = Evidence(
        stages,
        baselines,
        targets,
        author_baseline,
        guesses,
        contrasts,
        args.candidates,
        args.caution,
        args.dataset,
        titles,
        ingested,
    )
    tables = {
        "stages": stage_table(stages),
        "methods": baseline_table(stages, baselines),
        "phases": phase_table(stages),
    }
    for name, table in tables.items():
        write_text(table.write_csv(float_precision=6), args.folder / f"{name}.csv")
        write_text(as_markdown(table), args.folder / f"{name}.md")
    write_json(contrasts, args.folder / "contrasts.json")
    drawn = [*pictures(evidence), *dose.pictures(evidence)]
    for picture in drawn:
        write_text(picture.english, args.folder / "plots" / f"{picture.name}.svg")
    write_text(page(evidence, drawn, tables["stages"], tables["methods"], tables["phases"]), args.folder / "index.html")
    for stage in stages:
        trainings = [Path(training) for training in args.stages[stage.name]["training"]]
        text = card(evidence, stage, described_stage(trainings[0] / DESCRIPTION))
        write_text(text, args.folder / "cards" / f"{stage.name}.md")
        for training in trainings:
            place_card(text, training / "model")
    no_stars = [reason for reason in [why_no_stars(targets["rating"])] if reason]
    sentences = [english for english, _ in verdict(evidence)]
    print(short_table(tables["stages"], args.candidates), *sentences, *no_stars, sep="\n")


if __name__ == "__main__":
    run_command(main)
