"""One command at a time may change a cluster's folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from drystone_common.errors import ConflictError
from drystone_storaged.local.layout import Layout


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it when this process ends, however it ends."""
    descriptor = os.open(
        layout.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"another `drystone local` command works on {layout.root}",
                code="folder_locked",
                hint="wait until it has ended",
            ) from error
        yield
    finally:
        os.close(descriptor)
