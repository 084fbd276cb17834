#!/usr/bin/env bash
# Formats in place; also applies the fixes that ruff calls safe.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
.venv/bin/ruff check --fix --quiet --exit-zero
.venv/bin/ruff format --quiet
cargo fmt --all --manifest-path "$NATIVE/Cargo.toml"
