#!/usr/bin/env bash
# A Rust toolchain: the one that is there when it is new enough, else Debian's packages.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

cargo_version() { cargo --version 2>/dev/null | awk '{print $2}'; }

if have cargo && version_ge "$(cargo_version)" "$RUST_MIN"; then exit 0; fi
# Debian 12's own rustc is older; the packages it keeps current for browsers are not.
packages="cargo-web rustc-web rustfmt-web"
found="$(cargo_version || true)"
advice="Rust >= $RUST_MIN is needed (found: ${found:-none}); as root: apt-get install $packages, or https://rustup.rs"
{ is_root && have apt-get; } || die "$advice"
[ -z "$found" ] || [ "$(command -v cargo)" = /usr/bin/cargo ] || die "$advice (cargo at $(command -v cargo) comes first on PATH)"
say "installing Debian packages: $packages"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
apt-get install -y -q --no-install-recommends $packages >/dev/null 2>&1 || {
  apt-get update -q
  apt-get install -y -q --no-install-recommends $packages
}
hash -r
version_ge "$(cargo_version)" "$RUST_MIN" || die "$advice"
