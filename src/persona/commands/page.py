"""`persona page`: the trained stages in a browser, on this machine alone."""

from __future__ import annotations

import argparse
import socket
from typing import TYPE_CHECKING

from persona.commands.questions import add_results, whole_number
from persona.errors import PersonaError

if TYPE_CHECKING:
    from persona.study import Study

HOST, PORT = "127.0.0.1", 7860


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser("page", help="try the trained stages in a browser on this machine")
    add_results(command)
    command.add_argument("--port", type=whole_number(0, 65535), default=PORT, help=f"default: {PORT}")


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    from persona.study import Study

    study = Study.load(args.results)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, args.port))
        except OSError as error:
            raise PersonaError(
                f"port {args.port} cannot be used ({error.strerror}); choose another with --port"
            ) from error
        _serve(study, listening)


def _serve(study: Study, listening: socket.socket) -> None:
    import uvicorn

    from persona.inference.page.app import application
    from persona.inference.writer import one_process

    app = application(study)
    with one_process():
        print(f"http://{HOST}:{listening.getsockname()[1]}/ shows {study.folder}; Ctrl-C ends it", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listening])
