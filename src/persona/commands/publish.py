"""`persona publish`: a trained model on a hub, when that is asked."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from persona.commands.questions import add_results
from persona.operations.publish import prepare, push
from persona.units import human_size


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser("publish", help="list what a hub would get of a trained model; --push sends it")
    add_results(command)
    command.add_argument("--stage", help="default: the last stage that was trained")
    command.add_argument("--repo", required=True, metavar="OWNER/NAME", help="the repository; made if it is not there")
    command.add_argument("--public", action="store_true", help="everybody can see it; default: a private repository")
    command.add_argument("--base-model", help="hub id of the base model, of an adapter that was trained from a folder")
    command.add_argument("--push", action="store_true", help="send it")


def run(args: argparse.Namespace) -> None:
    """Answer the command."""
    from persona.study import Study

    stage = Study.load(args.results).stage(args.stage)
    # Beside the model, so that its weights need not be copied.
    with TemporaryDirectory(dir=stage.trained(), prefix=".publish-") as place:
        files = prepare(stage, args.repo, Path(place), args.base_model)
        visible = "public" if args.public else "private"
        print(f"stage {stage.name} for the {visible} repository {args.repo}:")
        for file in files:
            print(f"  {human_size(file.stat().st_size):>8}  {file.name}")
        print("The card and the settings name no user and no folder. The weights may repeat what they were trained on.")
        if args.push:
            print(push(Path(place), args.repo, args.public))
        else:
            print("nothing was sent; add --push to send it")
