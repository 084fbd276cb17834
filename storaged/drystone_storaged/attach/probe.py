"""Which attachers work on this host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from drystone_common.errors import UnavailableError
from drystone_storaged.attach.export import ExportAttacher
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.fuse_process import find_program
from drystone_storaged.attach.interface import Attacher, AttacherKind, InFlight, none_in_flight
from drystone_storaged.attach.remote import RemoteAttacher


@dataclass(frozen=True, slots=True)
class Host:
    """What counts, as a value, so that the choice can be tested."""

    root: bool
    nbd_module: bool
    fuse_device: bool
    loop_control: bool
    fuse_program: Path | None
    fuse_helper: Path | None = None
    """Socket of `drystone fuse-helper`, which then has what the FUSE attacher needs."""

    @classmethod
    def look(cls, fuse_helper: Path | None = None) -> Host:
        """Look at this host. Nothing is loaded or changed."""
        return cls(
            root=os.geteuid() == 0,
            nbd_module=Path("/sys/module/nbd").exists(),
            fuse_device=Path("/dev/fuse").exists(),
            loop_control=Path("/dev/loop-control").exists(),
            fuse_program=find_program(),
            fuse_helper=fuse_helper,
        )

    def kinds(self) -> tuple[AttacherKind, ...]:
        """The attachers that work here, best first: the kernel's own has a hop less."""
        kinds = []
        if self.root and self.nbd_module:
            kinds.append(AttacherKind.NBD)
        here = self.fuse_device and self.loop_control and self.fuse_program
        if self.root and (self.fuse_helper or here):
            kinds.append(AttacherKind.FUSE)
        return (*kinds, AttacherKind.EXPORT)

    def missing(self, kind: AttacherKind) -> str:
        """What an attacher lacks here, for people."""
        if not self.root:
            return "root rights"
        if kind is AttacherKind.NBD:
            return "the nbd module (modprobe nbd)"
        lacks = [
            (self.fuse_device, "/dev/fuse"),
            (self.loop_control, "/dev/loop-control"),
            (self.fuse_program is not None, "the program drystone-fuse (DRYSTONE_FUSE names it)"),
        ]
        return ", ".join(text for there, text in lacks if not there)


async def make(
    kind: AttacherKind, state: Path, host: Host, in_flight: InFlight = none_in_flight
) -> Attacher:
    """Make an attacher that keeps what it needs below ``state``; typed error if it cannot work."""
    if kind not in host.kinds():
        raise UnavailableError(
            f"the {kind} attacher does not work here: {host.missing(kind)} missing",
            code="attacher_unavailable",
            hint="use another one; 'export' works everywhere",
        )
    if kind is AttacherKind.NBD:
        # 9 MB of netlink in memory, for hosts that have the module only.
        from drystone_storaged.attach.nbd import NbdAttacher  # noqa: PLC0415 - see above

        return await NbdAttacher.open(in_flight)
    if kind is AttacherKind.FUSE and host.fuse_helper is not None:
        return RemoteAttacher(host.fuse_helper)
    if kind is AttacherKind.FUSE and host.fuse_program is not None:
        return FuseAttacher(state / "fuse", host.fuse_program)
    return ExportAttacher()
