#!/usr/bin/env bash
# Builds the etcd server that tests and `drystone local up --metadata etcd` use, once for all checkouts.
# It lies outside of the checkout: the build takes two minutes, and `make clean` is no reason for another.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

folder="${DRYSTONE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/drystone}/etcd-$ETCD_VERSION"
program="$folder/etcd"
if [ -n "${DRYSTONE_ETCD:-}" ]; then
  say "etcd: $DRYSTONE_ETCD, as DRYSTONE_ETCD says"
  exit 0
fi
if [ -x "$program" ]; then
  say "etcd: $program"
  exit 0
fi
if ! have go; then
  skip_or_die "etcd needs Go >= $ETCD_GO_MIN on PATH (https://go.dev/dl/), or DRYSTONE_ETCD"
  exit 0
fi
go_version="$(go env GOVERSION | sed 's/^go//')"
if ! version_ge "$go_version" "$ETCD_GO_MIN"; then
  skip_or_die "etcd needs Go >= $ETCD_GO_MIN, found $go_version (https://go.dev/dl/)"
  exit 0
fi

say "building etcd $ETCD_VERSION (about two minutes, once)"
mkdir -p "$folder"
# Under another name first: a build that is cut off, or another one at the same time, leaves nothing half made.
part="$(mktemp "$folder/.etcd.XXXXXX")"
trap 'rm -f "$part"' EXIT
(cd "$ROOT/scripts/etcd" && CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false \
  -ldflags "-s -w" -o "$part" go.etcd.io/etcd/server/v3)
chmod 0755 "$part"
mv "$part" "$program"
trap - EXIT
say "etcd: $program"
