"""The disks of this machine as `lsblk` lists them, with an id that survives renaming.

Only whole disks and multipath devices: partitions, loop and network devices (a volume of ours that
is attached here looks like a blank disk), removable and read-only media are no drives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from drystone_common.errors import DataError
from drystone_storaged.attach.command import Runner
from drystone_storaged.attach.sysfs import SYS_BLOCK, text

COLUMNS: Final = (
    "NAME", "KNAME", "PATH", "MAJ:MIN", "SIZE", "TYPE", "RO", "RM", "ROTA", "TRAN", "MODEL",
    "SERIAL", "WWN", "MOUNTPOINTS",
)  # fmt: skip
"""All of sysfs, udev and /proc: for what is on a disk lsblk would read it, and hang with it."""

LSBLK_S: Final = 10.0  # it reads sysfs and udev's files only; thousands of disks take a second
KINDS: Final = ("disk", "mpath")
DEPTH_MAX: Final = 16  # of disks on disks; the kernel's own limit of stacked devices is 8
TEXT_MAX: Final = 100  # of a serial number, WWN or model; SCSI allows 64 and NVMe 40
SIZE_DIGITS: Final = 20  # of 2^64
ID_MAX: Final = 256  # the manager takes no longer ones
NAMELESS: Final = "unnamed:"
"""Prefix of the id of a device that has nothing of its own to be known by."""

_PCI: Final = re.compile(r"/([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])/virtio\d+/block/")
_NO_DISK: Final = re.compile(r"(loop|nbd|ram|zram|rbd|ublkb|drbd|fd|sr)\d")
"""Kernel names of what is no disk of this machine: memory, media, what lies elsewhere already."""

_WWN_PREFIX: Final = re.compile(r"^(0x|naa\.|eui\.|uuid\.|mpath-3?)", re.IGNORECASE)
_NO_SERIAL: Final = re.compile(r"[0 _.-]*|none|unknown|default", re.IGNORECASE)
"""What some adapters say instead of a serial number; several disks would share it."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk; ``use`` says who uses it and ``holds`` what is on it, as far as lsblk tells."""

    id: str
    name: str
    path: str
    number: str
    size: int
    device_class: str
    serial: str = ""
    wwn: str = ""
    model: str = ""
    use: str = ""
    holds: str = ""
    sequence: str = ""
    """Differs for every disk that ever had this name since the machine started."""


async def list_disks(
    runner: Runner,
    *,
    path: str = "",
    kinds: Sequence[str] = KINDS,
    sys_block: Path = SYS_BLOCK,
) -> list[Disk]:
    """Every disk, or the one with this path; CommandError and DataError where lsblk fails."""
    argv = ["lsblk", "--json", "-b", "-o", ",".join(COLUMNS)]
    if path:
        argv += ["--", path]
    # 32 and 64: a device vanished while it was looked at, the others are in the answer.
    done = await runner.run(argv, timeout_s=LSBLK_S, codes=(0, 32, 64))
    return parse(done.stdout, kinds, sys_block)


def parse(output: str, kinds: Sequence[str] = KINDS, sys_block: Path = SYS_BLOCK) -> list[Disk]:
    """Disks of an answer; entries without sense are left out, an answer that is none raises."""
    try:
        entries = json.loads(output)["blockdevices"] if output.strip() else []
        if not isinstance(entries, list):
            raise TypeError("no list")  # noqa: TRY301 - one exit for all damage
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError("lsblk said nothing that can be read", code="bad_answer") from error
    found: dict[str, Disk] = {}
    for entry in _walk(entries, 0):
        disk = _disk(entry, kinds, sys_block)
        if disk is not None:
            found[disk.name] = disk  # a multipath device stands below each of its paths
    return _one_each(found.values())


def _walk(entries: object, depth: int) -> Iterator[Mapping[str, Any]]:
    if depth > DEPTH_MAX or not isinstance(entries, list):
        return
    for entry in entries:
        if isinstance(entry, dict):
            yield entry
            yield from _walk(entry.get("children"), depth + 1)


def _disk(entry: Mapping[str, Any], kinds: Sequence[str], sys_block: Path) -> Disk | None:
    name, path = _plain(entry, "kname") or _plain(entry, "name"), _plain(entry, "path")
    size = _number(entry.get("size"))
    usable = size > 0 and not _flag(entry.get("ro")) and not _flag(entry.get("rm"))
    if entry.get("type") not in kinds or not name or not path.startswith("/dev/") or not usable:
        return None
    if "loop" not in kinds and _NO_DISK.match(name):
        return None
    folder = sys_block / name
    # sysfs first: it says the same where udev does not run, such as in a container, and an id that
    # depended on that would change with it.
    serial = _first(folder, "serial", "device/serial") or _plain(entry, "serial")
    wwn = _first(folder, "wwid", "device/wwid", "dm/uuid") or _plain(entry, "wwn")
    model = _first(folder, "device/model") or _plain(entry, "model")
    serial = "" if _NO_SERIAL.fullmatch(serial) else serial
    return Disk(
        _identity(wwn, serial, model, path, folder),
        name,
        path,
        _plain(entry, "maj:min"),
        size,
        _class(name, entry),
        serial,
        wwn,
        model,
        _use(entry),
        "partitions" if entry.get("children") else "",
        text(folder / "diskseq") or "",
    )


def _identity(wwn: str, serial: str, model: str, path: str, folder: Path) -> str:
    """The best name of its own: worldwide, else the maker's, else the slot of a virtual machine."""
    if wwn:
        # One number, spelled in several ways; multipath's puts its type (3: NAA) before it.
        found = f"wwn:{_WWN_PREFIX.sub('', wwn).lower()}"
    elif serial:
        found = f"serial:{model}-{serial}" if model else f"serial:{serial}"
    else:
        slot = _PCI.search(f"{folder.resolve()}/")
        # The virtual disks of one slot are one; a real controller would have many behind it.
        found = f"pci:{slot[1]}" if slot else f"{NAMELESS}{path}"
    # Nothing that an address of the REST API would have to escape.
    return re.sub(r"[^A-Za-z0-9._:+@=/-]", "_", found)[:ID_MAX]


def _class(name: str, entry: Mapping[str, Any]) -> str:
    if name.startswith("nvme") or entry.get("tran") == "nvme":
        return "nvme"
    return "hdd" if _flag(entry.get("rota")) else "ssd"


def _use(entry: Mapping[str, Any]) -> str:
    """Who uses a disk or something on it; empty if nobody is seen to."""
    for each in _walk([entry], 0):
        points = each.get("mountpoints")
        for point in points if isinstance(points, list) else [each.get("mountpoint")]:
            if isinstance(point, str) and point:
                where = "swap" if point == "[SWAP]" else f"mounted at {_clean(point)}"
                return f"{where} ({_plain(each, 'path')})"
    for each in _walk(entry.get("children"), 0):
        if each.get("type") != "part":
            return f"used by {_plain(each, 'name')} ({_plain(each, 'type') or 'unknown'})"
    return ""


def _one_each(disks: Iterable[Disk]) -> list[Disk]:
    """One disk an id. Two that share one are paths of one disk, or fakes: neither may be used."""
    by_id: dict[str, list[Disk]] = {}
    for disk in disks:
        by_id.setdefault(disk.id, []).append(disk)
    found: list[Disk] = []
    for same in by_id.values():
        whole = [disk for disk in same if disk.path.startswith("/dev/mapper/")]
        found += whole if len(whole) == 1 else _unnamed(same)
    return sorted(found, key=lambda disk: disk.path)


def _unnamed(same: Sequence[Disk]) -> Iterator[Disk]:
    for disk in same:
        others = ", ".join(other.path for other in same if other is not disk)
        if not others:
            yield disk
            continue
        use = disk.use or f"{others} has the same identity {disk.id}: it may be the same disk"
        yield replace(disk, id=f"{NAMELESS}{disk.path}", use=_clean(use))


def _first(folder: Path, *names: str) -> str:
    """The first that sysfs has of these values."""
    return next((found for name in names if (found := _clean(text(folder / name) or ""))), "")


def _plain(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return _clean(value) if isinstance(value, str) else ""


def _clean(value: str) -> str:
    """Firmware says what it likes: control characters and endless texts end here."""
    return "".join(c if c.isprintable() else " " for c in value[: 4 * TEXT_MAX]).strip()[:TEXT_MAX]


def _number(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[: SIZE_DIGITS + 1])  # one digit more than fits is out of range anyway
    return value if isinstance(value, int) and 0 < value < 2**64 else 0


def _flag(value: object) -> bool:
    # Older versions write "0" and "1".
    return value in (True, 1, "1")
