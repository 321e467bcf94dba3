# Shared by the example stories: find the command, make a work folder, say what is done. Sourced, not run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
[ -x "$root/.venv/bin/continual" ] && export PATH="$root/.venv/bin:$PATH"
command -v continual >/dev/null || { echo "continual is not installed: run \`make setup\` first" >&2; exit 1; }
export OMP_NUM_THREADS=1
data="" out=""
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    *) echo "usage: $(basename "$0") [--data DIR] [--out DIR]" >&2; exit 2 ;;
  esac
done
out=${out:-$root/out/$(basename "$0" .sh)}
mkdir -p "$out"
step() { printf '\n== %s\n' "$*" >&2; }
run() { printf '$ continual %s\n' "$*" >&2; continual "$@"; }
make_data() { python "$here/make_data.py" "$@"; }
free_port() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
