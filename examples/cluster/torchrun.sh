#!/usr/bin/env bash
# One machine with 8 GPUs:           examples/cluster/torchrun.sh run.yaml runs/first
# Two machines, the same on each:    NNODES=2 MASTER=first-host examples/cluster/torchrun.sh run.yaml runs/first
set -euo pipefail
config=$1 run=$2
if [ "${NNODES:-1}" = 1 ]; then
  where=(--standalone)
else
  where=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$MASTER:${PORT:-29400}" --rdzv-id "$(basename "$run")")
fi
exec torchrun --no-python "${where[@]}" --nproc-per-node "${RANKS:-8}" --max-restarts 10 \
  npx selfedit train "$config" --out "$run" --resume-or-begin
