#!/usr/bin/env bash
# The long forms of what `make test` runs short: more seeds, more examples, every fuzz target.
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
fuzz_all() {
  local target
  for target in $(cd "$NATIVE" && cargo fuzz list); do
    # Five minutes a target: long enough to leave the shallow paths, short enough for a night.
    (cd "$NATIVE" && cargo fuzz run "$target" -- -max_total_time=300 -rss_limit_mb=2048)
  done
}

run "everything that gates a change" scripts/run_tests.sh
# 1,000 seeds after those of `make test`; another FROM explores others.
run "simulator" env SEED= SEEDS="${SEEDS:-1000}" FROM="${FROM:-300}" scripts/sim.sh
run "fio verification under kills" scripts/py.sh python -m tests.e2e.verify --seconds 60 --kills 5
run "properties" env HYPOTHESIS_PROFILE=nightly scripts/py.sh pytest -q --timeout 1800 tests/unit
if [ -d "$NATIVE/fuzz" ]; then
  if cargo fuzz --version >/dev/null 2>&1; then
    run "fuzzing" fuzz_all
  else
    skip_or_die "fuzzing needs cargo-fuzz and a nightly Rust (cargo install cargo-fuzz)"
  fi
fi
[ "${#failed[@]}" -eq 0 ] || die "nightly failed: ${failed[*]}"
say "nightly passed"
