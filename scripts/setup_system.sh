#!/usr/bin/env bash
# Debian packages: compilers' linker, file systems, FUSE, and the block tools the tests use.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# command : Debian package that has it
NEEDED="
python3:python3 gcc:build-essential git:git curl:curl flock:util-linux losetup:util-linux
mkfs.ext4:e2fsprogs resize2fs:e2fsprogs mkfs.xfs:xfsprogs xfs_growfs:xfsprogs fusermount3:fuse3
modprobe:kmod mount:mount fio:fio nbdkit:nbdkit nbdinfo:libnbd-bin qemu-img:qemu-utils
ip:iproute2 tc:iproute2 nft:nftables nsenter:util-linux sysctl:procps
"

# Tools of file systems live in sbin, which a plain user's PATH leaves out.
PATH="$PATH:/usr/sbin:/sbin"
missing=()
for pair in $NEEDED; do
  have "${pair%%:*}" || missing+=("${pair##*:}")
done
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  || die "Python 3.11 or newer is needed as python3 (Debian 12 has it: apt-get install python3)"
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ "${#missing[@]}" -gt 0 ] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
have apt-get || die "not a Debian system; install the equivalents of: ${missing[*]}"
is_root || die "these Debian packages are missing; as root: apt-get install ${missing[*]}"
say "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
  apt-get update -q
  apt-get install -y -q --no-install-recommends "${missing[@]}"
}
