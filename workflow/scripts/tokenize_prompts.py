"""Tokenize the prompts of a sample, and show some of them if asked to."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.files import write_json, write_text
from persona.tables import schemas
from persona.tables.parquet import write_tables
from persona.tables.user_ranges import parse_bucket
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.preview import PREVIEWED_SAMPLES, preview, read_lengths, trimming
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--fit", type=json.loads, required=True, help="JSON of FitSettings")
    parser.add_argument("--bucket", type=parse_bucket, default=(1, 1), help="part of the users, such as 3-of-8")
    parser.add_argument("--preview", type=Path, help="text file to write with some samples")
    parser.add_argument("--trimming", type=Path, help="JSON file to write, with --preview: how many were trimmed")
    args = parser.parse_args()
    fit, tokenizer = FitSettings.model_validate(args.fit), load_tokenizer(args.model)
    write_tables(tokenize_file(args.prompts, tokenizer, fit, args.bucket), args.tokens, schemas.TOKENS)
    if args.preview:
        lengths = read_lengths(args.prompts, args.tokens)
        write_text(preview(lengths, args.prompts, args.tokens, tokenizer, PREVIEWED_SAMPLES, fit), args.preview)
        write_json(trimming(lengths, fit), args.trimming)


if __name__ == "__main__":
    run_command(main)
