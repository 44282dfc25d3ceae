"""Started by torchrun: run several commands in turn in the same processes, which import torch and DeepSpeed once.

The commands are read from a JSON file: lists of a script and its arguments. Each leaves what it prints to stderr, and
its exit status in the last line, in the file that `output_of` names.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import sys
from pathlib import Path

from persona.modeling.processes import process_group


def output_of(file: Path, n: int) -> Path:
    """Where rank 0 writes the output of the n-th command of a file."""
    return file.with_suffix(f".{n}.output")


def run(argv: list[str]) -> int:
    """Run a script as a command of its own; its exit status."""
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        gc.collect()  # engines, and the locks of their folders
    return 0


def main(file: Path) -> None:
    # The commands use this process group, and do not leave one that they did not start.
    with process_group():
        for n, argv in enumerate(json.loads(file.read_text())):
            output = output_of(file, n) if os.environ["RANK"] == "0" else Path(os.devnull)
            with output.open("w") as stream, contextlib.redirect_stderr(stream):
                print(f"exit status {run(argv)}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
