"""Tokenize the prompts of a sample and show some of them."""

import argparse
from pathlib import Path

from persona import artefacts
from persona.errors import run_command
from persona.tokenization import check_assembly, load_tokenizer, preview, tokenize

PREVIEWED_SAMPLES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("preview", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-length", type=int, required=True)
    args = parser.parse_args()
    prompts = artefacts.read_table(args.prompts, artefacts.PROMPTS)
    tokenizer = load_tokenizer(args.model)
    tokens = tokenize(prompts, tokenizer, args.max_length)
    check_assembly(prompts, tokens, tokenizer)
    artefacts.write_table(tokens, args.tokens, artefacts.TOKENS)
    artefacts.write_text(preview(prompts, tokens, tokenizer, PREVIEWED_SAMPLES), args.preview)


if __name__ == "__main__":
    run_command(main)
