"""Settings of a storage server."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drystone_storaged.agent.process import DaemonSettings

SEGMENT_BYTES_MIN = 1 << 20  # smaller segments would be nothing but headers and summaries


class DriveSettings(BaseModel):
    """One drive of this node."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    path: str
    """File or block device."""
    listen: str
    """`host:port` of this drive's reactor; servers and clients connect to it."""
    init: bool = False
    """Format the drive if it is blank. A drive with anything on it is never formatted."""
    create_bytes: int | None = Field(default=None, gt=0)
    """Create a missing file with this size (only together with `init`)."""
    segment_bytes: int | None = Field(default=None, ge=SEGMENT_BYTES_MIN)
    """Size of a segment at format; the engine's default if not given."""
    power_loss_protected: bool = False
    """The drive's cache survives a power cut: acknowledgements need no flush."""

    @property
    def key(self) -> str:
        """What the server remembers this place by, over restarts."""
        return self.path

    @property
    def device_id(self) -> str:
        """Id of the device if the manager wants it; empty for a drive of the settings."""
        return ""

    @property
    def kind(self) -> str:
        """`nvme`, `ssd`, `hdd` or `file`; empty where nobody looked."""
        return ""


class WantedSettings(DriveSettings):
    """A drive that the manager wants. Its path may change, its device does not."""

    device: str
    device_class: str = ""

    @property
    def key(self) -> str:
        """See the base class."""
        return self.device

    @property
    def device_id(self) -> str:
        """See the base class."""
        return self.device

    @property
    def kind(self) -> str:
        """See the base class."""
        return self.device_class


class ServerSettings(DaemonSettings):
    """The file of `drystone server`."""

    drives: list[DriveSettings] = Field(default_factory=list)
    """Drives of this node, in the order of their slots."""
    drive_listen: str = ""
    """`host:port` of the first drive that the manager asks for, the n-th listens n ports above;
    empty = it cannot ask for any."""
    device_folders: list[str] = Field(default_factory=list)
    """Folders whose regular files `*.img` count as devices, for machines without spare disks."""
    discover: bool = True
    """Look for devices (only together with `drive_listen`)."""
    run_dir: str = ""
    """Folder of the lease page that `drystone beacon` of this node serves; empty = no such process,
    the beacon runs inside the server."""
    beacon_listen: str = ""
    """`host:port` of the UDP socket of a beacon inside the server; not used with `run_dir`."""
    fault_set: str = ""
    """Nodes that may fail together (a rack); empty = the node alone."""

    @model_validator(mode="after")
    def _has_a_beacon(self) -> Self:
        if not self.run_dir and not self.beacon_listen:
            raise ValueError("give run_dir (with `drystone beacon` beside it) or beacon_listen")
        return self
