#!/usr/bin/env bash
# Every static check, all of them even when one fails; names those that did.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

clippy() {
  if ! cargo clippy --version >/dev/null 2>&1; then
    skip_or_die "cargo clippy is not in this toolchain (rustup component add clippy)"
    return 0
  fi
  cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
  # The simulator has a second store for comparison, which nothing else builds.
  cargo clippy --quiet --locked --package drystone-sim --features naive -- -D warnings
}

step "uv.lock is current" uv lock --check --offline --quiet
step "ruff check" .venv/bin/ruff check --quiet
step "ruff format" .venv/bin/ruff format --check --quiet
step "mypy" .venv/bin/mypy
step "lint-imports" .venv/bin/lint-imports --no-cache
pushd "$NATIVE" >/dev/null
step "cargo fmt" cargo fmt --all --check -- -l
step "cargo clippy" clippy
popd >/dev/null
finish lint
say "lint passed"
