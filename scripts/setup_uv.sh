#!/usr/bin/env bash
# uv at one pinned version, in a private environment; the machine's own Python stays as it is.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

have_version() { "$1" --version 2>/dev/null | awk '{print $2}'; }

if [ "$(have_version "$TOOLS/uv/bin/uv")" != "$UV_VERSION" ]; then
  say "installing uv $UV_VERSION into .tools"
  python3 -m venv --clear "$TOOLS/uv"
  "$TOOLS/uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi

# `uv run drystone` is to work in a shell too. Only where no uv is on PATH: never replaces one.
if ! have uv; then
  bin="$HOME/.local/bin"
  if is_root; then bin=/usr/local/bin; fi
  mkdir -p "$bin"
  install -m 0755 "$TOOLS/uv/bin/uv" "$bin/uv"
  say "installed uv as $bin/uv"
  case ":$PATH:" in *":$bin:"*) ;; *) say "add $bin to PATH to use 'uv run drystone'" ;; esac
fi
