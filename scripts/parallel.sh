#!/usr/bin/env bash
# A folder with GNU parallel: a shard a core, here or on several machines that share RUN, then the scores once.
# usage: scripts/parallel.sh SOURCE TARGET RUN [SHARDS] [options of parallel, e.g. --sshlogin node1,node2 --workdir .]
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 SOURCE TARGET RUN [SHARDS] [options of parallel]" >&2; exit 2; }
source_clips="$1" target_clips="$2" run="$3" shards="${4:-$(nproc)}"
shift $(($# < 4 ? 3 : 4))
# A failed clip is exit code 1 of its shard; it fails again below, where it is told with all others.
seq "$shards" | parallel --quote --jobs "$shards" "$@" \
  facepipe swap --source "$source_clips" --target "$target_clips" --out "$run" --quiet --shard "{}/$shards" || true
exec facepipe run --source "$source_clips" --target "$target_clips" --out "$run" --workers "$(nproc)"
