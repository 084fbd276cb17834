"""Settings of the FUSE helper."""

from __future__ import annotations

from pydantic import Field

from drystone_common.settings import Settings


class FuseHelperSettings(Settings):
    """The file of `drystone fuse-helper`."""

    name: str
    """Name of the node, for logs."""
    socket: str
    """Path of its unix socket; the block daemon's `fuse_helper_socket`."""
    state_dir: str
    """State folder of the node's block daemon: devices are kept in `fuse` below it, and either of
    the two finds those that the other one made."""
    stop_wait_s: float = Field(default=0.0, ge=0)
    """Seconds that a stop waits for volumes to be detached. Set it where the FUSE processes die
    with this one (a container); elsewhere they outlive it."""
    metrics_listen: str = ""
    """`host:port` of `/metrics` and `/healthz`; empty = none."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
