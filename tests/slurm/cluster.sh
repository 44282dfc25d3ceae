#!/usr/bin/env bash
# A Slurm of two nodes on this machine, to test with: real munged, slurmctld and slurmd on loopback.
#   cluster.sh start | stop | path      `path` prints the folder whose clients speak to it
# Debian's packages munge, slurm-client, slurmctld and slurmd must be there (make slurm). Needs root.
set -euo pipefail
root=${SLURM_TEST_ROOT:-${TMPDIR:-/tmp}/persona-slurm}
port=${SLURM_TEST_PORT:-17917}
nodes=(n1 n2)
host=$(hostname -s)

write_configuration() {
    mkdir -p "$root"/{etc,bin,run,log,state,spool,gpus}
    chmod 755 "$root" "$root/run"
    (umask 077 && head -c 1024 /dev/urandom > "$root/etc/munge.key")
    cat > "$root/etc/slurm.conf" << CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$root/run/munge.socket
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd-%n.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# A job that takes more memory than it asked for is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
MailProg=/bin/true
MinJobAge=600
SlurmdTimeout=30
KillWait=5
GresTypes=gpu
CONF
    for i in "${!nodes[@]}"; do
        name=${nodes[i]}
        # Pretended hardware, but for the GPUs' device files.
        echo "NodeName=$name NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1 + i)) CPUs=16 RealMemory=64000" \
            "Gres=gpu:8 State=UNKNOWN" >> "$root/etc/slurm.conf"
        for gpu in {0..7}; do mknod "$root/gpus/$name-$gpu" c 1 3 2> /dev/null || true; done
        echo "NodeName=$name Name=gpu File=$root/gpus/$name-[0-7]"
    done > "$root/etc/gres.conf"
    echo "PartitionName=gpu Nodes=n1,n2 Default=YES State=UP" >> "$root/etc/slurm.conf"
    # Snakemake's job step removes SLURM_CONF from the environment, so the clients set it.
    for client in srun sbatch squeue scancel scontrol sinfo; do
        printf '#!/bin/sh\nSLURM_CONF=%s exec /usr/bin/%s "$@"\n' "$root/etc/slurm.conf" $client > "$root/bin/$client"
        chmod 755 "$root/bin/$client"
    done
}

background() { # NAME COMMAND...
    setsid "${@:2}" > "$root/log/$1.out" 2>&1 < /dev/null &
    echo $! > "$root/run/$1.own"
}

wait_for() { # SECONDS COMMAND...
    for ((i = 0; i < $1 * 5; i++)); do
        if "${@:2}" > /dev/null 2>&1; then return; fi
        sleep 0.2
    done
    tail -n 5 "$root"/log/* >&2
    echo "error: no answer to: ${*:2}" >&2
    exit 1
}

all_idle() { [[ $(sinfo --noheader --Node --format %T | grep --count idle) == "${#nodes[@]}" ]]; }

start() {
    stop
    rm -rf "$root"
    write_configuration
    export PATH=$root/bin:$PATH
    background munged munged --foreground --key-file="$root/etc/munge.key" --socket="$root/run/munge.socket" \
        --pid-file="$root/run/munged.pid" --seed-file="$root/run/munged.seed" --log-file="$root/log/munged.log"
    wait_for 10 munge --socket "$root/run/munge.socket" --no-input
    background slurmctld slurmctld -D -c -f "$root/etc/slurm.conf"
    wait_for 20 scontrol ping
    for name in "${nodes[@]}"; do
        background "slurmd-$name" slurmd -D -N "$name" -f "$root/etc/slurm.conf"
    done
    wait_for 30 all_idle
}

stop() {
    if [[ -x $root/bin/scancel ]]; then "$root/bin/scancel" --user root 2> /dev/null || true; fi
    for file in "$root"/run/slurmd-*.own "$root"/run/slurmctld.own "$root"/run/munged.own; do
        [[ -s $file ]] || continue
        pid=$(< "$file")
        # The number may be another process's by now.
        if grep --quiet "$(basename "${file%.own}" | cut -d- -f1)" "/proc/$pid/cmdline" 2> /dev/null; then
            kill "$pid" 2> /dev/null || true
            for _ in {1..50}; do
                [[ -d /proc/$pid ]] || break
                sleep 0.1
            done
        fi
        rm -f "$file"
    done
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    path) echo "$root/bin" ;;
    *)
        sed -n 2,4p "$0" >&2
        exit 2
        ;;
esac
