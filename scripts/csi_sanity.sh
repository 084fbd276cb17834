#!/usr/bin/env bash
# Runs the CSI project's own conformance suite against the driver of a local cluster.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

if ! have go; then
  skip_or_die "csi-sanity needs Go >= $GO_MIN on PATH (https://go.dev/dl/; Debian 12's golang is older)"
  exit 0
fi
go_version="$(go env GOVERSION | sed 's/^go//')"
if ! version_ge "$go_version" "$GO_MIN"; then
  skip_or_die "csi-sanity needs Go >= $GO_MIN, found $go_version (https://go.dev/dl/)"
  exit 0
fi

if ! is_root; then
  say "SKIPPED: csi-sanity mounts what it publishes and needs root"
  exit 0
fi

sanity="$TOOLS/csi-sanity-$CSI_SANITY_VERSION/csi-sanity"
if [ ! -x "$sanity" ]; then
  say "installing csi-sanity $CSI_SANITY_VERSION"
  GOBIN="$(dirname "$sanity")" go install \
    "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$CSI_SANITY_VERSION"
fi

work="$(mktemp -d)"
export DRYSTONE_DIR="$work/cluster"
cleanup() {
  .venv/bin/drystone local destroy --dir "$DRYSTONE_DIR" >"$work/destroy.log" 2>&1 || cat "$work/destroy.log" >&2
  rm -rf --one-file-system -- "$work"
}
trap cleanup EXIT
.venv/bin/drystone local up --dir "$DRYSTONE_DIR" --drive-size 4Gi

# 1 GiB volumes: the smallest that both file systems take without special options.
# The suite creates the target folders below $work; each call has csi-sanity's own deadline.
timeout 900 "$sanity" \
  --csi.endpoint="unix://$DRYSTONE_DIR/csi/csi.sock" \
  --csi.mountdir="$work/mount" --csi.stagingdir="$work/staging" \
  --csi.testvolumesize=$((1 << 30)) --csi.testvolumeexpandsize=$((2 << 30)) \
  --ginkgo.no-color ${SANITY_ARGS:-}
