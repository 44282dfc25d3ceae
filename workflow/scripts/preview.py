"""List what does not fit, count how many samples were trimmed, and show some as the model sees them."""

import argparse
import json
from pathlib import Path

from persona.errors import run_command
from persona.tokenization.chat import load_tokenizer
from persona.tokenization.outputs import Outputs
from persona.tokenization.settings import FitSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--fit", type=json.loads, required=True, help="JSON of FitSettings")
    parser.add_argument("--outputs", type=Outputs.parse, required=True, help="JSON of Outputs")
    args = parser.parse_args()
    fit, tokenizer = FitSettings.model_validate(args.fit), load_tokenizer(args.model)
    args.outputs.write(args.prompts, args.tokens, tokenizer, fit)


if __name__ == "__main__":
    run_command(main)
