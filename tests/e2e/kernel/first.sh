#!/bin/sh
# First process of the machine under test, whose root is the host's, read-only. Lays a RAM overlay
# over it, so that programs may write anywhere and nothing of it stays, and goes on in there.
# STATE: the folder shared with the host; MODULES: the kernel's modules; HERE: this folder.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p /mnt/modules/lib/modules /mnt/written /mnt/work /mnt/root
mount --bind "$MODULES" /mnt/modules/lib/modules
modprobe -d /mnt/modules overlay
mount -t overlay -o lowerdir=/,upperdir=/mnt/written,workdir=/mnt/work overlay /mnt/root

cd /mnt/root
mkdir -p dev proc sys run mnt disk lib/modules
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount --bind "$MODULES" lib/modules
# A mount of its own, writable, at the place that an administrator's mounts have.
mount -t hostfs -o "$STATE" hostfs mnt
exec chroot . "$HERE/inside.sh"
