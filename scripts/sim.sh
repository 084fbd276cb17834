#!/usr/bin/env bash
# The deterministic simulator over the real cores. SEED replays one seed with its trace.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

manifest="$NATIVE/crates/sim/Cargo.toml"
# The profile is optimised and keeps assertions: invariants are checked at every event.
# The switches of mutation testing exist only here: release builds refuse the feature.
run=(cargo run --quiet --locked --profile sim --features mutations --manifest-path "$manifest" --)
if [ -n "${SEED:-}" ]; then exec "${run[@]}" --seed "$SEED"; fi
# Schedules that broke earlier drafts of the protocol, by name.
"${run[@]}" --scenarios
# Each safety rule switched off must be noticed by a named oracle, or the simulator proves nothing.
"${run[@]}" --mutate all --seeds 10
# 300 seeds is what gates a change; `make nightly` runs more.
exec "${run[@]}" --seeds "${SEEDS:-300}" --from "${FROM:-0}"
