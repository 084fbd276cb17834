#!/usr/bin/env bash
# The demonstration of README.md; tests/e2e/demo holds its steps.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
[ -e tests/e2e/demo/__main__.py ] || die "the demonstration is not in this checkout (tests/e2e/demo)"
exec .venv/bin/python -m tests.e2e.demo "$@"
