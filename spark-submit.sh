#!/usr/bin/env bash
# One launcher for every job: finds the environment's Python; what it does is in launch/.
#   ./spark-submit.sh [--env local|yarn] [--deploy-mode client|cluster] [--queue NAME] [--dry-run] jobs/X.py [-- job options]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${RECSYS_PYTHON:-$root/.venv/bin/python}"
if [ ! -x "$python" ]; then
  what="no environment at '$python'"
  [ ! -L "$python" ] || what="'$python' is a link to an interpreter that is gone"
  echo "error: $what. Run 'make setup' once, or set RECSYS_PYTHON." >&2
  exit 2
fi
# -P: a folder 'launch' where the user stands is not the launcher.
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -P -m launch "$@"
