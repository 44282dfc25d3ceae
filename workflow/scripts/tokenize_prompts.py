"""Tokenize the prompts of a sample."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.tables import schemas
from persona.tables.parquet import write_tables
from persona.tables.user_ranges import parse_bucket
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.outputs import Outputs
from persona.tokenization.settings import FitSettings
from persona.tokenization.tokenize import tokenize_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--fit", type=json.loads, required=True, help="JSON of FitSettings")
    parser.add_argument("--bucket", type=parse_bucket, default=(1, 1), help="part of the users, such as 3-of-8")
    parser.add_argument("--outputs", type=Outputs.parse, help="JSON of Outputs to write for all users")
    args = parser.parse_args()
    fit, tokenizer = FitSettings.model_validate(args.fit), load_tokenizer(args.model)
    write_tables(tokenize_file(args.prompts, tokenizer, fit, args.bucket), args.tokens, schemas.TOKENS)
    if args.outputs:
        args.outputs.write(args.prompts, args.tokens, tokenizer, fit)


if __name__ == "__main__":
    run_command(main)
