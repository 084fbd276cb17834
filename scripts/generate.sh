#!/usr/bin/env bash
# Regenerates every committed generated file. The definitions are the sources of truth.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
exec .venv/bin/python scripts/generate.py "$@"
