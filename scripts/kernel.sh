#!/usr/bin/env bash
# Tests that need a kernel with NBD, under User Mode Linux: a kernel that runs as a program.
# scripts/kernel.sh [--or-skip] [options of python -m tests.e2e.kernel] [-- COMMAND...]
# --or-skip: where it cannot run, say why and succeed (a failure in CI).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
PATH="$PATH:/usr/sbin:/sbin"

unable=die
if [ "${1:-}" = --or-skip ]; then
  unable=skip_or_die
  shift
fi

# command : Debian package that has it
NEEDED="linux.uml:user-mode-linux modprobe:kmod ip:iproute2 nbdkit:nbdkit mkfs.ext4:e2fsprogs"

missing() {
  local pair
  for pair in $NEEDED; do
    have "${pair%%:*}" || printf '%s\n' "${pair##*:}"
  done
}

reason() {
  if [ "$(uname -m)" != x86_64 ]; then echo "User Mode Linux needs x86_64, this is $(uname -m)"
  elif ! is_root; then echo "tests under another kernel read every file of this machine: root is needed"
  elif [ -n "$(missing)" ] && ! have apt-get; then
    echo "not a Debian system; install the equivalents of: $(missing | xargs)"
  fi
}

why="$(reason)"
if [ -n "$why" ]; then
  "$unable" "$why"
  exit 0
fi
mapfile -t packages < <(missing)
if [ "${#packages[@]}" -gt 0 ]; then
  say "installing Debian packages: ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends "${packages[@]}" >/dev/null 2>&1 || {
    apt-get update -q
    apt-get install -y -q --no-install-recommends "${packages[@]}"
  }
fi
exec scripts/py.sh python -m tests.e2e.kernel "$@"
