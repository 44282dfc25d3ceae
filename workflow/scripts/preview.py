"""Show some samples as the model sees them."""

import argparse
from pathlib import Path

from persona.errors import run_command
from persona.files import write_text
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.preview import PREVIEWED_SAMPLES, preview


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("preview", type=Path)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    text = preview(args.prompts, args.tokens, load_tokenizer(args.model), PREVIEWED_SAMPLES)
    write_text(text, args.preview)


if __name__ == "__main__":
    run_command(main)
