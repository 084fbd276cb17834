#!/usr/bin/env bash
# What every change is tested with in a real Kubernetes, where this machine can run one:
#   kube_short.sh tools   its programs, built once into a cache (minutes); tests of CRDs and chart use them too
#   kube_short.sh         the image, the lab, the chart; a volume is used, a node dies; and all is taken away
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if ! is_root; then
  skip_or_die "Kubernetes needs root: namespaces, mounts and control groups of its nodes"
  exit 0
fi
if ! have go; then
  skip_or_die "Kubernetes needs Go on PATH (https://go.dev/dl/), its programs are built from modules"
  exit 0
fi
if [ "${1:-}" = tools ]; then
  exec "$ROOT/scripts/kube.sh" tools
fi
"$ROOT/scripts/image.sh" --engine archive
exec "$ROOT/scripts/kube.sh" e2e --short
