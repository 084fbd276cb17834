#!/usr/bin/env bash
# The benchmark; PEERS names further systems to measure beside ours (ceph).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
exec .venv/bin/python -m tests.e2e.bench --peers "${PEERS:-}" "$@"
