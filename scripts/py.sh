#!/usr/bin/env bash
# Runs a program of the checkout's Python environment: scripts/py.sh pytest -q
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
program="$1"
shift
[ -x ".venv/bin/$program" ] || die ".venv/bin/$program is missing: run 'make setup'"
exec ".venv/bin/$program" "$@"
