#!/usr/bin/env bash
# The container image: scripts/image.sh [--engine docker|podman|buildah|archive] [--output FILE]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
exec python3 -m scripts.image build "$@"
