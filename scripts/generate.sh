#!/usr/bin/env bash
# Regenerates every committed generated file. The definitions are the sources of truth.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
.venv/bin/python scripts/generate.py "$@"
.venv/bin/python scripts/generate_chart.py
.venv/bin/python scripts/generate_reference.py
