#!/usr/bin/env bash
# Run a script in so many processes on each of so many nodes: launch.sh NODES PROCESSES SCRIPT ARGUMENTS...
# One node is this machine. Several are those of the Slurm job that this runs in, and share its file system.
# Progress goes to descriptor 3 if the caller has opened it. torchrun does not hand descriptors on, so the processes
# open the file that PROGRESS names.
# In a Slurm job the processes are told to stop (SIGTERM) before the job's time is up, and have time to save.
set -euo pipefail
nodes=$1 processes=$2
shift 2
# Snakemake sets the number of MKL's threads to that of the job, which the processes share. torch takes the larger of the
# two numbers. LOCAL_SIZE: on the CPU DeepSpeed would start `numactl` in every step to find it.
# expandable_segments: less of a GPU's memory is lost to fragments.
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
threads=$((${MKL_NUM_THREADS:-1} / processes))
threads=$((threads > 0 ? threads : 1))
export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads PYTHONWARNINGS=ignore LOCAL_SIZE="$processes"
if [[ -t 3 ]]; then
    PROGRESS=$(readlink /proc/$$/fd/3)
    export PROGRESS
elif [[ -e /proc/$$/fd/3 ]]; then
    # Through a pipe: a file that is opened a second time would be written from its beginning. Ctrl-C does not end it.
    exec 4> >(trap '' INT TERM; exec cat >&3)
    export PROGRESS=/proc/$$/fd/4
fi

# The state of a training that is told to stop must be written before its processes are killed.
torchrun=(torchrun --shutdown-timeout 600 --nproc-per-node "$processes")
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    # Nothing where squeue does not answer, and no time where the job has no limit: then Slurm's own end is the end.
    end=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %e 2> /dev/null) || end=
    if [[ $end == *T* ]] && left=$(($(date --date "$end" +%s) - $(date +%s))) && ((left > 0)); then
        reserve=$((left / 5 < 600 ? left / 5 : 600))
        torchrun=(timeout --foreground --signal TERM $((left - reserve)) "${torchrun[@]}")
    fi
fi

if ((nodes == 1)); then
    # A rendezvous on a free port, so that runs beside each other do not meet. The address, because torchrun would look up
    # the name of this machine, which nothing may resolve.
    exec "${torchrun[@]}" --standalone --local-addr 127.0.0.1 "$@"
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "error: the recipe asks for nodes: $nodes, and this is no Slurm job; use --workflow-profile slurm, or set nodes: 1" >&2
    exit 1
fi
port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
# A step would get one core a task, since what the job asked for does not reach srun here.
exec srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1 --cpus-per-task $((processes * threads)) --cpu-bind=none \
    --kill-on-bad-exit=1 \
    "${torchrun[@]}" --nnodes "$nodes" --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$(hostname):$port" "$@"
