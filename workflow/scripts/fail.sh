#!/usr/bin/env bash
# End a failed command: its trace stays in the log, its first error line goes to the terminal.
# The first one: when a process of several fails, the others only lose their connection.
if ! grep -m 1 '^error: ' "$1" >&2; then
    free=$(df --human-readable --output=avail "$(dirname "$1")" | tail -n 1)
    echo "error: ended before it could say why: killed, for memory perhaps, or no room to write;" \
        "free on the disk of its log $1 are now${free}B" >&2
fi
exit 1
