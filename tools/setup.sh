#!/bin/sh
# Set up everything once: environment, Java where none fits, Delta jars. Run by make; without make run it by hand.
set -eu
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3.11}"
if ! command -v "$PYTHON" >/dev/null 2>&1; then
  echo "error: '$PYTHON' was not found. Install Python 3.11, or name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 2
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  echo "error: '$PYTHON' is $("$PYTHON" -V), Python 3.11 is needed. Name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 2
fi
echo "setting up .venv (a few minutes, once) ..."
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
.venv/bin/python tools/ensure_java.py
log=.venv/resolve-jars.log
if ! .venv/bin/python tools/resolve_jars.py >"$log" 2>&1; then
  tail -n 5 "$log" >&2
  echo "error: set-up stopped at the Delta jars; the whole log is $log" >&2
  exit 1
fi
grep '^note:' "$log" || true
.venv/bin/python tools/compile_kernels.py
touch .venv/.ready
echo "ready: make demo, make test, make help"
