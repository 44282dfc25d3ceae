#!/usr/bin/env bash
# End a failed command: its trace stays in the log, its first error line goes to the terminal.
# The first one: when a process of several fails, the others only lose their connection.
grep -m 1 '^error: ' "$1" >&2
exit 1
