#!/usr/bin/env bash
# A job on Slurm, resumed after preemption and time limits until it is done:
#
#   sbatch --nodes 2 cluster/slurm.sh jobs/sweep.py RECIPE.yaml --storage /scratch/ME/runs
#
# The storage and the environment (.venv of the checkout, or PYTHON) lie on a file system that all
# nodes share. Every node is taken whole: Ray's ports are fixed, and `ray symmetric-run` ends with
# `ray stop`, which ends every Ray of this user on the node.
#SBATCH --job-name=adapt_ray
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -euo pipefail

if [[ $# -eq 0 ]]; then
    echo "usage: sbatch [options] cluster/slurm.sh jobs/JOB.py [RECIPE.yaml] --storage FOLDER ..." >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
PYTHON="${PYTHON:-$PWD/.venv/bin/python}"
PATH="$(dirname "$PYTHON"):$PATH"

# Whoever knows the token can run code as you on these nodes: a new one for every start.
umask 077
mkdir -p "$HOME/.ray"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/slurm-$SLURM_JOB_ID"
"$PYTHON" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

export RAY_USAGE_STATS_ENABLED=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"

# One Ray node on each host; the job's command runs on the first, and its exit status is that of all.
# Flags that were given come last, and win.
srun --kill-on-bad-exit=1 \
    ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
    -- "$PYTHON" "$1" --resources.address auto --resources.gpus_per_worker 1 "${@:2}" &
step=$!

# Five minutes before the limit: back into the queue. Finished runs and checkpoints are in the
# storage, and the same command goes on from them.
# shellcheck disable=SC2329  # called by the trap
requeue() {
    echo "time limit: requeued" >&2
    scontrol requeue "$SLURM_JOB_ID"
    kill -TERM "$step" 2>/dev/null || true
}
trap requeue USR1

# A signal ends `wait` early; the step itself decides when it is over, and how.
status=0
while true; do
    wait "$step" && status=0 || status=$?
    kill -0 "$step" 2>/dev/null || break
done
exit "$status"
