#!/usr/bin/env bash
# The Kubernetes of the end-to-end tests: scripts/kube.sh up|down|kill 2|enter 1|... (--help).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
PATH="$PATH:/usr/sbin:/sbin"
have python3 || die "python3 is not installed"
exec python3 -m tests.e2e.kube "$@"
