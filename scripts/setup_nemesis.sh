#!/usr/bin/env bash
# The native package for servers of a nemesis run whose drives fail on order, in a folder that only such runs look into.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

folder="$TOOLS/nemesis"
package="$folder/drystone_native"
mkdir -p "$package"
# With debug assertions: without them the feature is refused, so that no release can have it.
cargo build --quiet --locked --profile sim --manifest-path "$NATIVE/Cargo.toml" -p drystone-native --features fault-hooks
install -m 0644 "$NATIVE"/bindings/python/drystone_native/*.py "$NATIVE"/bindings/python/drystone_native/*.pyi "$package/"
install -m 0755 "$CARGO_TARGET_DIR/sim/libdrystone_native.so" "$package/_native.abi3.so.new"
mv "$package/_native.abi3.so.new" "$package/_native.abi3.so"
