#!/usr/bin/env bash
# The native package, built from this checkout into its Python environment.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

sources() {
  find "$NATIVE" -name target -prune -o -type f \
    \( -name '*.rs' -o -name Cargo.toml -o -name Cargo.lock -o -name pyproject.toml \) -print
}

stamp="$STAMPS/native"
mapfile -t files < <(sources)
if fresh "$stamp" "$STAMPS/python" "${files[@]}"; then exit 0; fi
say "building the native package"
# uv does not look inside the crates: it is told to build again when one of them changed.
# The stamp carries the time of the start, so that an edit during the build builds again.
touch "$stamp.begun"
uv sync --frozen --inexact --quiet --compile-bytecode --reinstall-package drystone-native
# The program under FUSE devices is a process of its own, not part of the Python package.
cargo build --quiet --release --locked --manifest-path "$NATIVE/Cargo.toml" -p drystone-fe-fuse
install -m 0755 "$CARGO_TARGET_DIR/release/drystone-fuse" .venv/bin/drystone-fuse
mv "$stamp.begun" "$stamp"
