"""Commands to use beside the workflow: what trains, what is on the disk, and what was trained in use."""

from __future__ import annotations

import argparse
import os
import re
import sys

from persona.commands import compare, operate, page, publish, show, write
from persona.errors import PersonaError, explain_missing_package

COMMANDS = {
    **dict.fromkeys(("status", "disk", "cancel", "calibrate"), operate),
    "write": write,
    "page": page,
    "show": show,
    "compare": compare,
    "publish": publish,
}


def main() -> None:
    """Answer one command."""
    parser = argparse.ArgumentParser(prog="persona", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for module in dict.fromkeys(COMMANDS.values()):
        module.add(commands)
    try:
        for argument in sys.argv[1:]:
            # So Python keeps bytes that are not UTF-8.
            if re.search("[\udc80-\udcff]", argument):
                raise PersonaError(f"{argument!a}: this argument is not UTF-8")
        args = parser.parse_args()
        COMMANDS[args.command].run(args)
    except PersonaError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Who reads the output, such as `head`, has enough of it; Python would try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {explain_missing_package(error)}")


if __name__ == "__main__":
    main()
