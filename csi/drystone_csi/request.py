"""Checks of CSI requests: capabilities, parameters, options, ids. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from drystone_common.errors import InvalidArgumentError, NotFoundError
from drystone_common.ids import CsiVolumeId, format_id, parse_name
from drystone_csi.model import FILE_SYSTEMS, AccessMode, FileSystem
from drystone_csi.proto import csi_pb2

DEFAULT_FS: Final = FileSystem.EXT4

PARAMETER_POOL: Final = "pool"
PARAMETER_FS: Final = "csi.storage.k8s.io/fstype"
PARAMETER_MKFS: Final = "mkfsOptions"
# What the external provisioner adds of itself, and under which attribute the volume keeps it: an
# operator sees whose volume it is. It is told, never asked for, so no answer depends on it.
PARAMETERS_CLAIM: Final = {
    "csi.storage.k8s.io/pvc/namespace": "csi.pvcNamespace",
    "csi.storage.k8s.io/pvc/name": "csi.pvcName",
    "csi.storage.k8s.io/pv/name": "csi.pvName",
}
CONTEXT_FS: Final = "fsType"
CONTEXT_MKFS: Final = "mkfsOptions"
CONTEXT_MODE: Final = "mode"

_MODE: Final = csi_pb2.VolumeCapability.AccessMode
ACCESS_MODES: Final = {
    # One sequencer owns a volume, so a second node cannot use it at the same time.
    _MODE.SINGLE_NODE_WRITER: AccessMode.READ_WRITE,
    _MODE.SINGLE_NODE_SINGLE_WRITER: AccessMode.READ_WRITE,
    _MODE.SINGLE_NODE_MULTI_WRITER: AccessMode.READ_WRITE,
    _MODE.SINGLE_NODE_READER_ONLY: AccessMode.READ_ONLY,
}

_MOUNT_OPTION: Final = re.compile(
    r"(?:no)?(?:atime|diratime|relatime|strictatime|lazytime|exec|suid|dev|discard|acl|user_xattr)"
    r"|ro|rw|dirsync|sync|errors=remount-ro|commit=[1-9][0-9]{0,3}|stripe=[0-9]{1,6}"
    r"|inode64|largeio|swalloc|logbufs=[2-8]|logbsize=[0-9]{1,6}k?|allocsize=[0-9]{1,7}[kmg]?"
    r"|(?:usr|grp|prj|u|g|p)quota"
    r'|context="?[a-zA-Z0-9_:.,-]{1,256}"?'
)
# Options that take a value and cannot name another device or file.
_MKFS_OPTIONS: Final = {
    FileSystem.EXT4: frozenset(
        {"-b", "-C", "-E", "-g", "-G", "-i", "-I", "-L", "-m", "-N", "-O", "-T"}
    ),
    FileSystem.XFS: frozenset({"-b", "-d", "-i", "-l", "-L", "-m", "-n", "-s"}),
}
_MKFS_VALUE: Final = re.compile(r"[A-Za-z0-9^][A-Za-z0-9_^,=.:+-]{0,255}")
_MKFS_FOREIGN: Final = re.compile(r"(?:^|,)(?:name|file|logdev|rtdev|device|journal_dev)(?:=|,|$)")

# A StorageClass has a handful of options; more text than this is a mistake.
OPTIONS_CHARS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Capability:
    """A checked volume capability; ``fs`` is None for a raw block device or when not said."""

    block: bool
    fs: FileSystem | None
    mode: AccessMode
    single_publish: bool
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameters:
    """A checked set of StorageClass parameters."""

    pool: str | None
    fs: FileSystem | None
    mkfs_options: str | None
    claim: Mapping[str, str] = field(default_factory=dict)
    """Attributes that say which claim the volume is for."""

    def context(self) -> dict[str, str]:
        """What the node has to know again when it stages the volume."""
        pairs = {CONTEXT_FS: self.fs, CONTEXT_MKFS: self.mkfs_options}
        return {key: value for key, value in pairs.items() if value}


def require(value: str, what: str) -> str:
    """Refuse an empty field."""
    if not value:
        raise InvalidArgumentError(f"{what} is missing from the request")
    return value


def volume_of(text: str, cluster_uuid: str) -> str:
    """Give the engine's id for a CSI volume id.

    A malformed id names no volume of ours, hence NotFoundError, and the calls for which
    "not there" is success treat it so. An id of another cluster is a mistake that must be
    seen: calling its volume deleted would leak it.
    """
    require(text, "volume id")
    try:
        parsed = CsiVolumeId.parse(text)
    except InvalidArgumentError as error:
        raise NotFoundError(error.message, code="volume_not_found", hint=error.hint) from error
    if str(parsed.cluster) != cluster_uuid:
        raise InvalidArgumentError(
            f"volume {text} belongs to another cluster than this driver's ({cluster_uuid})",
            code="wrong_cluster",
            hint="run one driver a cluster, each with its own name",
        )
    return format_id(parsed.volume)


def file_system(text: str) -> FileSystem | None:
    """Read the name of a file system; empty means not said."""
    if not text:
        return None
    if text not in FILE_SYSTEMS:
        raise InvalidArgumentError(
            f"file system {text[:40]!a} is not supported", hint="use ext4 or xfs"
        )
    return FileSystem(text)


def capability(message: csi_pb2.VolumeCapability) -> Capability:
    """Check one capability."""
    mode = message.access_mode.mode
    if mode not in ACCESS_MODES:
        name = _MODE.Mode.Name(mode) if mode in _MODE.Mode.values() else str(mode)
        raise InvalidArgumentError(
            f"access mode {name} is not supported",
            code="unsupported_access_mode",
            hint="use a single-node mode (ReadWriteOnce, ReadWriteOncePod)",
        )
    access = ACCESS_MODES[mode]
    single = mode == _MODE.SINGLE_NODE_SINGLE_WRITER
    kind = message.WhichOneof("access_type")
    if kind == "block":
        return Capability(block=True, fs=None, mode=access, single_publish=single)
    if kind != "mount":
        raise InvalidArgumentError("the capability says neither block nor mount")
    if message.mount.volume_mount_group:
        raise InvalidArgumentError(
            "volume_mount_group is not supported", hint="the driver does not claim it"
        )
    return Capability(
        block=False,
        fs=file_system(message.mount.fs_type),
        mode=access,
        single_publish=single,
        options=mount_options(message.mount.mount_flags),
    )


def capabilities(messages: Iterable[csi_pb2.VolumeCapability]) -> tuple[Capability, ...]:
    """Check a list of capabilities, which must not be empty."""
    checked = tuple(capability(message) for message in messages)
    if not checked:
        raise InvalidArgumentError("volume capabilities are missing from the request")
    return checked


def mount_options(flags: Iterable[str]) -> tuple[str, ...]:
    """Check mount options one by one, also where several are joined by commas."""
    options = [word for flag in flags for word in flag.split(",")]
    if sum(map(len, options)) > OPTIONS_CHARS_MAX:
        raise InvalidArgumentError("the mount options are too long")
    for option in options:
        if _MOUNT_OPTION.fullmatch(option) is None:
            raise InvalidArgumentError(
                f"mount option {option[:60]!a} is not allowed",
                code="mount_option_not_allowed",
                hint="docs/limitations.md lists the options that are",
            )
    return tuple(options)


def mkfs_options(text: str, fs: FileSystem) -> tuple[str, ...]:
    """Split and check options for mkfs: flags with a value, none that names another device."""
    if len(text) > OPTIONS_CHARS_MAX:
        raise InvalidArgumentError("mkfsOptions is too long")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgumentError(f"mkfsOptions cannot be split into words: {error}") from error
    pairs = list(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2:
        raise InvalidArgumentError("mkfsOptions must be flags that each have a value")
    for flag, value in pairs:
        foreign = _MKFS_FOREIGN.search(value)
        if flag not in _MKFS_OPTIONS[fs] or foreign or _MKFS_VALUE.fullmatch(value) is None:
            shown = ascii(f"{flag} {value}"[:60])
            raise InvalidArgumentError(
                f"mkfs.{fs} option {shown} is not allowed",
                code="mkfs_option_not_allowed",
                hint=f"flags with a value that may be used: {' '.join(sorted(_MKFS_OPTIONS[fs]))}",
            )
    return tuple(words)


def parameters(values: Mapping[str, str]) -> Parameters:
    """Check StorageClass parameters; any that is not known is refused, for a typo must show."""
    known = {PARAMETER_POOL, PARAMETER_FS, PARAMETER_MKFS}
    unknown = sorted(set(values) - known - set(PARAMETERS_CLAIM))
    if unknown:
        which = ", ".join(ascii(name[:60]) for name in unknown[:5])
        raise InvalidArgumentError(
            f"the StorageClass has parameters that are not known: {which}",
            code="unknown_parameter",
            hint=f"parameters are {', '.join(sorted(known))}",
        )
    pool = values.get(PARAMETER_POOL)
    fs = file_system(values.get(PARAMETER_FS, ""))
    return Parameters(
        parse_name(pool, "pool name") if pool else None,
        fs,
        values.get(PARAMETER_MKFS) or None,
        {name: values[key] for key, name in PARAMETERS_CLAIM.items() if values.get(key)},
    )
