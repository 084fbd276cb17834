#!/usr/bin/env bash
# A real cluster in networks of its own, broken on purpose: nemesis.sh [--or-skip] [options of python -m tests.e2e.nemesis]
# Without options MINUTES, SEED and SERVERS of the environment count.
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

reason() {
  local tool
  is_root || { echo "a nemesis run makes network namespaces: root is needed"; return; }
  for tool in ip nft tc nsenter sysctl unshare; do
    have "$tool" || { echo "$tool is missing: run 'make setup' as root"; return; }
  done
  [ -c /dev/net/tun ] || { echo "no /dev/net/tun: 'modprobe tun', or a kernel that has it"; return; }
  # Root of a container may lack the right, and a kernel the tables.
  unshare --net nft add table inet nem 2>/dev/null \
    || echo "no network namespaces with nftables: a privileged container, or another kernel"
}

why="$(reason)"
if [ -n "$why" ]; then
  "$unable" "$why"
  exit 0
fi
scripts/etcd.sh
if ! scripts/py.sh python -c 'from drystone_storaged.local.etcd import etcd_program; etcd_program()' 2>/dev/null; then
  "$unable" "a nemesis run needs etcd: 'make etcd' builds it"
  exit 0
fi
# The short form gates every change and does without them.
case " $* " in *" --short "*) ;; *) scripts/setup_nemesis.sh ;; esac
if [ $# -eq 0 ]; then
  set -- --minutes "${MINUTES:-10}" --seed "${SEED:-1}" --servers "${SERVERS:-3}"
fi
exec scripts/py.sh python -m tests.e2e.nemesis "$@"
