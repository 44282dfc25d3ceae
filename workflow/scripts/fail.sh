#!/usr/bin/env bash
# End a failed command: fail.sh LOG STATUS. Its trace stays in the log, its reason goes to the terminal.
log=$1 status=${2:-1}
# When a process of several fails, the others only lose their connection.
lost='another process ended or did not answer'
if grep '^error: ' "$log" | grep --invert-match --max-count 1 "$lost" >&2; then
    exit 1
fi

# What a library, Python or the shell said last. torchrun writes a summary of its own below that, in which the root cause
# is the process that failed first; of several processes the first exception counts.
reason() {
    awk '
        /^E[0-9]+ .* failed \(exitcode: / { summary = 1 }
        /^Root Cause/ { root = 1 }
        root && match($0, /\(SIG[A-Z]+\)/) { signal = substr($0, RSTART + 1, RLENGTH - 2) }
        { sub(/^\[rank[0-9]+\]: ?/, "") }
        !summary && NF { last = $0 }
        !summary && first == "" && /^[A-Za-z_.]+(Error|Exception): / { first = $0 }
        END { print signal != "" ? signal : summary && first != "" ? first : last }
    ' "$1"
}

reason=$(reason "$log")
if ((status > 128)); then
    reason=SIG$(kill -l "$status")
fi
if [[ $reason != SIG* ]] && grep --max-count 1 "^error: .*$lost" "$log" >&2; then
    exit 1
fi
free=$(df --human-readable --output=avail "$(dirname "$log")" | tail -n 1)
case $reason in
    SIGKILL) reason="killed, for memory perhaps (SIGKILL)" ;;
    SIGBUS) reason="killed, because a disk or the shared memory was full perhaps (SIGBUS)" ;;
    SIG*) reason="killed by $reason; the last lines of $log may say more" ;;
    "") reason="ended with status $status and without a word; no room to write perhaps: free on the disk of its log $log are now ${free# }B" ;;
esac
echo "error: $reason" >&2
exit 1
