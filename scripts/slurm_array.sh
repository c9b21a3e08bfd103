#!/usr/bin/env bash
# A folder on a SLURM cluster: eight shards side by side, then the scores once. An example; put your limits here.
# usage: scripts/slurm_array.sh SOURCE TARGET RUN        (RUN on a file system that all nodes share)
set -euo pipefail
if [ -z "${SLURM_JOB_ID:-}" ]; then  # called by hand: hand in both jobs
  [ $# -eq 3 ] || { echo "usage: $0 SOURCE TARGET RUN" >&2; exit 2; }
  array="$(sbatch --parsable --array=1-8 --cpus-per-task=4 --mem=12G --time=4:00:00 "$0" "$@")"
  # Also when a clip has failed (exit code 1 of its shard): the others are scored, and the report names it.
  sbatch --dependency="afterany:${array%%;*}" --cpus-per-task=4 --mem=12G --time=4:00:00 "$0" "$@"
elif [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  exec facepipe swap --source "$1" --target "$2" --out "$3" --workers 2 --log-json \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
else
  exec facepipe run --source "$1" --target "$2" --out "$3" --workers 2 --log-json
fi
