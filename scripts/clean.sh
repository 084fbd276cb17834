#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
rm -rf "$NATIVE/target" .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis "$STAMPS"
find cli common csi storaged scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
