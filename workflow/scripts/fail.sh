#!/usr/bin/env bash
# End a failed command: its trace stays in the log, its last error line goes to the terminal.
grep '^error: ' "$1" | tail -n 1 >&2
exit 1
