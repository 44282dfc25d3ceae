"""Show some samples as the model sees them, and count how many were trimmed."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.files import write_json, write_text
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.preview import PREVIEWED_SAMPLES, preview, read_lengths, trimming
from persona.tokenization.settings import FitSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("preview", type=Path)
    parser.add_argument("trimming", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--fit", type=json.loads, required=True, help="JSON of FitSettings")
    args = parser.parse_args()
    fit, tokenizer = FitSettings.model_validate(args.fit), load_tokenizer(args.model)
    lengths = read_lengths(args.prompts, args.tokens)
    write_text(preview(lengths, args.prompts, args.tokens, tokenizer, PREVIEWED_SAMPLES, fit), args.preview)
    write_json(trimming(lengths, fit), args.trimming)


if __name__ == "__main__":
    run_command(main)
