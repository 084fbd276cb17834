#!/usr/bin/env bash
# Recorded runs of a drive, cut at every moment at which something becomes durable. POINTS=n: at least so many.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# `cargo test -p drystone-store` runs 1,000; ten times as many take a minute.
POINTS="${POINTS:-10000}"
[[ "$POINTS" =~ ^[1-9][0-9]{0,8}$ ]] || die "POINTS=$POINTS is not a number of crash points: a number from 1 on"

# Optimised, with assertions; the test prints its figures and fails below what it was asked for.
exec env STORE_REPLAY_POINTS="$POINTS" cargo test --quiet --locked --profile sim \
  --manifest-path "$NATIVE/crates/store/Cargo.toml" --test replay -- --nocapture
