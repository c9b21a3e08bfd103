# Sourced by the scripts beside it: `use_environment [EXTRA]` makes a virtual environment in .venv, installs facepipe
# into it with the pinned versions, and puts it on the PATH. When nothing has changed it costs a second.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "needs Python 3.11 or newer; install it, or name it: PYTHON=/path/to/python3.11 $0" >&2
  exit 1
}

use_environment() {
  local extra="${1:-}" venv="${FACEPIPE_VENV:-.venv}" stamp wanted
  stamp="$venv/.facepipe-$extra"
  wanted="$(cat pyproject.toml scripts/constraints.txt | cksum) $(pwd)"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    local python
    python="$(find_python)" || exit 1
    echo "== environment: $venv with $("$python" --version) (first time: about 2 minutes, 6 GB, most of it torch)" >&2
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || exit 1
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint scripts/constraints.txt --editable ".${extra:+[$extra]}" 2> "$venv/pip.log" ||
      { tail -n 20 "$venv/pip.log" >&2; exit 1; }
    echo "$wanted" > "$stamp"
  fi
  PATH="$(cd "$venv/bin" && pwd):$PATH"
  export PATH VIRTUAL_ENV="$venv" PYTHONWARNINGS="${PYTHONWARNINGS:-}"
}

step() { echo "== $*" >&2; }
