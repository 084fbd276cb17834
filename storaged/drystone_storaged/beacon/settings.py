"""Settings of a beacon."""

from __future__ import annotations

from drystone_storaged.agent.process import DaemonSettings


class BeaconSettings(DaemonSettings):
    """The file of `drystone beacon`; `name` is that of the node's server."""

    listen: str
    """`host:port` of the UDP socket; the beacons of all other nodes must reach it."""
    run_dir: str
    """Folder of the lease page, in memory (tmpfs); the node's server names the same one."""
