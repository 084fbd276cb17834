#!/usr/bin/env bash
# Everything that gates a change, in order; the last line is the sum over the real runners.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
exec .venv/bin/python scripts/run_tests.py
