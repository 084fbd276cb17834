# Sourced by the scripts beside it; expects `set -euo pipefail` from the caller.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
TOOLS="$ROOT/.tools"
STAMPS="$TOOLS/stamps"
NATIVE="$ROOT/storaged/native"
UV_VERSION="0.13.8"
RUST_MIN="1.85"          # edition and library features that the crates use
GO_MIN="1.24"            # what the pinned csi-sanity asks for
CSI_SANITY_VERSION="v5.4.0"
ETCD_VERSION="v3.6.11"
ETCD_GO_MIN="1.25"       # what scripts/etcd/go.mod asks for

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$NATIVE/target}"
# A checkout's environment is its own, whatever is active in the caller's shell.
unset VIRTUAL_ENV
export UV_PROJECT_ENVIRONMENT="$ROOT/.venv"

say() { printf '%s\n' "== $*"; }
warn() { printf '%s\n' "warning: $*" >&2; }
die() { printf '%s\n' "error: $*" >&2; exit 1; }
have() { type -P "$1" >/dev/null; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# version_ge A B: true when version A is at least B.
version_ge() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# In CI a missing tool is a failure, elsewhere a skip that says so.
in_ci() { [ -n "${CI:-}" ] && [ "${CI}" != 0 ] && [ "${CI}" != false ]; }
skip_or_die() {
  if in_ci; then die "$* (a failure, because CI is set)"; fi
  say "SKIPPED: $*"
}

uv() { "$TOOLS/uv/bin/uv" "$@"; }

# step NAME COMMAND...: runs one of several; a failure does not keep the next ones from running.
# finish WHAT: after the last, fails with the names of those that failed.
FAILED=()
step() {
  local name="$1"
  shift
  say "$name"
  "$@" || FAILED+=("$name")
}
finish() { [ "${#FAILED[@]}" -eq 0 ] || die "$1 failed: ${FAILED[*]}"; }

# fresh STAMP FILE...: true when the stamp exists and no given file is newer.
fresh() {
  local stamp="$1" file
  shift
  [ -e "$stamp" ] || return 1
  for file in "$@"; do
    [ ! -e "$file" ] || [ ! "$file" -nt "$stamp" ] || return 1
  done
}
