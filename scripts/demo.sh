#!/usr/bin/env bash
# The demonstration of README.md; tests/e2e/demo holds its steps.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
exec .venv/bin/python -m tests.e2e.demo "$@"
