"""The options by which commands are told of a results folder, a stage, a user and an item."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_results(command: argparse.ArgumentParser) -> None:
    """The option for the results folder of a data set."""
    command.add_argument(
        "--results", type=Path, help="folder of the data set, such as results/dmsc; default: the only one in results"
    )


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that is a whole number in a range."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"got {text}, allowed is a whole number from {low} to {high}")
        return int(text)

    return read


target_id = whole_number(0, 2**63 - 1)


def add_question(command: argparse.ArgumentParser) -> None:
    """The options of `persona.inference.question.ask`."""
    command.add_argument("--user", help="hash or name of the user")
    command.add_argument("--item", help="id or title of what the text is about; may be left out if there is only one")
    command.add_argument("--title", help="title of an item that is not in the data, instead of --item")
    command.add_argument(
        "--target",
        type=target_id,
        help="interaction_id of a text of the data, instead of user and item",
    )
    command.add_argument(
        "--history", type=Path, help="texts of a user who is not in the data: JSON lines, see docs/your-own-data.md"
    )
    command.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="SPEAKER: TEXT",
        help="a turn of the conversation before the text; may be repeated",
    )
    command.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="PART",
        help="leave out profile, history or context; may be repeated",
    )


def question_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `ask`.

    Raises:
        PersonaError: a turn of the conversation is not `SPEAKER: TEXT`.
    """
    from persona.inference.question import parse_turn

    names = ("user", "item", "title", "target", "history")
    return {name: getattr(args, name) for name in names} | {"context": list(map(parse_turn, args.context))}
