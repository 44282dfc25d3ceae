"""Make the tiny model: a tokenizer trained on the training users' texts, and random weights."""

import argparse
import json
from pathlib import Path

import polars as pl

from persona.errors import run_command
from persona.modeling.tiny import write_tiny_model
from persona.tables import schemas
from persona.tables.parquet import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", type=json.loads, required=True)
    args = parser.parse_args()
    prompts = read_table(args.prompts, schemas.PROMPTS, ["prompt", "completion"])
    texts = pl.concat([prompts["prompt"], prompts["completion"]]).to_list()
    n_parameters = write_tiny_model(texts, args.folder, **args.tiny)
    print(f"{n_parameters:,} parameters")


if __name__ == "__main__":
    run_command(main)
