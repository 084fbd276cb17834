#!/usr/bin/env bash
# The deterministic simulator over the real cores. SEED replays one seed with its trace.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

manifest="$NATIVE/crates/sim/Cargo.toml"
regressions="$ROOT/tests/sim/regressions"
# The profile is optimised and keeps assertions: invariants are checked at every event.
# The switches of mutation testing exist only here: release builds refuse the feature.
run=(cargo run --quiet --locked --profile sim --features mutations --manifest-path "$manifest" --)
if [ -n "${SEED:-}" ]; then exec "${run[@]}" --seed "$SEED"; fi
# Schedules that broke earlier drafts of the protocol, by name.
"${run[@]}" --scenarios
# Every history that failed once.
"${run[@]}" --regressions "$regressions"
# What a fault costs who uses a volume, in virtual time; each figure has a bar.
"${run[@]}" --figures "${FIGURES:-20}" --jobs "$(nproc)"
# Damage to every structure of a drive, by kind, on one and two of three copies: met, healed, no wrong byte.
"${run[@]}" --matrix --jobs "$(nproc)"
# Each safety rule switched off must be noticed by a named oracle, or the simulator proves nothing.
"${run[@]}" --mutate all --seeds 10
# 300 seeds is what gates a change; `make nightly` runs more. One that fails is made small and kept.
exec "${run[@]}" --seeds "${SEEDS:-300}" --from "${FROM:-0}" --jobs "$(nproc)" --save "$regressions"
