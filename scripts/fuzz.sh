#!/usr/bin/env bash
# Runs the fuzz targets of the engine, or those named, FUZZ_SECONDS each. A finding fails at the end.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

FUZZ="$NATIVE/fuzz"
# Five minutes a target: long enough to leave the shallow paths, short enough for a night.
FUZZ_SECONDS="${FUZZ_SECONDS:-300}"
# One input never takes long; 25 s is a parser that hangs, also on a machine that is busy.
FUZZ_TIMEOUT=25
FUZZ_RSS_MB=2048

[ -f "$FUZZ/Cargo.toml" ] || die "there are no fuzz targets in $FUZZ: the checkout is incomplete"
if ! cargo fuzz --version >/dev/null 2>&1; then
  skip_or_die "fuzzing needs cargo-fuzz: cargo install cargo-fuzz --locked"
  exit 0
fi

# No sanitizer: that is what works with a stable compiler, and the parsers forbid unsafe code.
fuzz() {
  local what="$1"
  shift
  cargo fuzz "$what" --sanitizer none --fuzz-dir "$FUZZ" --target-dir "$CARGO_TARGET_DIR/fuzz" "$@"
}

targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
  mapfile -t targets < <(cargo fuzz list --fuzz-dir "$FUZZ")
fi
[ "${#targets[@]}" -gt 0 ] || die "cargo fuzz lists no target in $FUZZ"
fuzz build || die "the fuzz targets do not compile"

failed=()
for target in "${targets[@]}"; do
  say "fuzzing $target for $FUZZ_SECONDS s"
  fuzz run "$target" -- -max_total_time="$FUZZ_SECONDS" -timeout="$FUZZ_TIMEOUT" \
    -rss_limit_mb="$FUZZ_RSS_MB" -max_len=16384 -print_final_stats=1 || failed+=("$target")
done
[ "${#failed[@]}" -eq 0 ] || die "failed, or found something: ${failed[*]} (inputs under $FUZZ/artifacts)"
say "fuzzed ${#targets[@]} targets, nothing found"
