#!/usr/bin/env bash
# Every static check, all of them even when one fails; names those that did.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

failed=()
run() {
  local name="$1"
  shift
  say "$name"
  "$@" || failed+=("$name")
}
clippy() {
  if ! cargo clippy --version >/dev/null 2>&1; then
    skip_or_die "cargo clippy is not in this toolchain (rustup component add clippy)"
    return 0
  fi
  cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
}

run "uv.lock is current" uv lock --check --offline --quiet
run "ruff check" .venv/bin/ruff check --quiet
run "ruff format" .venv/bin/ruff format --check --quiet
run "mypy" .venv/bin/mypy
run "lint-imports" .venv/bin/lint-imports --no-cache
pushd "$NATIVE" >/dev/null
run "cargo fmt" cargo fmt --all --check -- -l
run "cargo clippy" clippy
popd >/dev/null
[ "${#failed[@]}" -eq 0 ] || die "lint failed: ${failed[*]}"
say "lint passed"
