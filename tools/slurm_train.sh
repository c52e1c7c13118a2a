#!/usr/bin/env bash
# Train under Slurm, one task a GPU. GPUS_PER_NODE=0 asks for no GPU: the tasks train on CPUs.
# usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=] slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARG...]
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
read -ra srun_args <<< "${SRUN_ARGS:-}"
if [ "$per_node" -gt 0 ]; then
    srun_args+=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
fi

PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} \
exec srun -p "$1" \
    --job-name="$2" \
    --ntasks="$gpus" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$here/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}"
