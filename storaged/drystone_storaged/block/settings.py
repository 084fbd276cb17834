"""Settings of a block daemon."""

from __future__ import annotations

from typing import Literal

from drystone_storaged.agent.process import DaemonSettings


class BlockSettings(DaemonSettings):
    """The file of `drystone block`."""

    socket: str
    """Path of the daemon's own unix socket (proto/block.proto)."""
    attacher: Literal["auto", "nbd", "fuse", "export"] = "auto"
    """What AUTO in a request means; `auto` takes the best that this host can do."""
    fuse_helper_socket: str = ""
    """Socket of this node's `drystone fuse-helper`, which then starts and holds the FUSE processes;
    empty = this daemon starts them itself. To be changed only while nothing is attached."""
    near_node: str = ""
    """UUID of the storage node on this machine, whose copies are preferred for reads."""
