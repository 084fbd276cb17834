#!/usr/bin/env bash
# Everything a fresh Debian 12 machine needs, in order; each step returns at once when done.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
mkdir -p "$STAMPS"

# One set-up at a time in a checkout: two `make` runs would fight over the environment.
exec 9>"$TOOLS/setup.lock"
flock -w 1800 9 || die "another 'make setup' has held $TOOLS/setup.lock for 30 minutes"

"$ROOT/scripts/setup_system.sh"
"$ROOT/scripts/setup_rust.sh"
"$ROOT/scripts/setup_uv.sh"
"$ROOT/scripts/setup_python.sh"
[ "${1:-}" = --no-native ] || "$ROOT/scripts/setup_native.sh"
