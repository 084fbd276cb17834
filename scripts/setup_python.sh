#!/usr/bin/env bash
# The Python environment exactly as uv.lock says, the native package excepted.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

stamp="$STAMPS/python"
if [ -x .venv/bin/python ] && fresh "$stamp" pyproject.toml uv.lock; then exit 0; fi
say "syncing the Python environment"
# Frozen: set-up never changes the lock; `make lint` says when it is out of date.
# Inexact: a native package that is installed already stays.
uv sync --frozen --inexact --no-install-package drystone-native --compile-bytecode --quiet
touch "$stamp"
