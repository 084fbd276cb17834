"""Drives that do not serve, are full or bad, and devices that cannot be taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from drystone_storaged.cluster.drives import REMOVED, STOPPED
from drystone_storaged.cluster.records import Drive
from drystone_storaged.manager.drivestats import DriveFigures
from drystone_storaged.manager.issues.health import against
from drystone_storaged.manager.issues.look import Moment
from drystone_storaged.manager.problems import Problem, Severity
from drystone_storaged.manager.refusals import ENOSPC, FAILED, Refusal

FULL_PERCENT: Final = 85  # at 100 writes stop, and freeing space takes time
REFUSED: Final = "docs/operations.md, *A drive is refused*, has what to do for each code"
AGAIN: Final = "its server tries again by itself, at least every 30 s"


def of_places(at: Moment) -> Iterator[Problem]:
    """What is no drive of the cluster, or not yet: a new disk that cannot be taken."""
    if not at.drives:
        yield Problem(
            "no_drives",
            Severity.WARNING,
            "there are no drives",
            "take one into use (`drystone drive add NODE DEVICE`; in "
            "Kubernetes `state: In` on a StorageDisk), or name one in a server's settings",
            "it waits for the first",
        )
    known = set(at.refused.values())
    for node in at.servers:
        for refusal in at.seen.refusals.of(node.uuid):
            if refusal not in known:
                yield Problem(
                    "device_refused",
                    Severity.WARNING,
                    f"node {node.name} refuses a drive ({refusal.code}): {refusal.reason}",
                    REFUSED,
                    AGAIN,
                    (f"node {node.name}", refusal.path),
                )


def of_drives(at: Moment) -> Iterator[Problem]:
    """Each drive in turn."""
    for drive in at.drives:
        if (down := _down(at, drive)) is not None:
            yield down
        figures = at.seen.stats.get(drive.id)
        if figures is not None:
            yield from _reported(drive, figures)


def _down(at: Moment, drive: Drive) -> Problem | None:
    where, objects = _where(drive), (f"drive {drive.id}", f"node {drive.node_name}")
    refusal = at.refused.get(drive.id)
    if refusal is not None and refusal.code == FAILED:
        return Problem(
            "drive_failed",
            Severity.WARNING,
            f"{where} failed and answers nothing: {refusal.reason}",
            _reopen(refusal.reason),
            "it left the placement groups of which others have the data",
            objects,
        )
    if refusal is not None:
        return _refused(where, refusal, objects)
    if drive.reason == REMOVED and drive.id not in at.needed:
        return None  # as somebody asked for
    if (told := against(at, drive)) is not None:
        return told
    if drive.id not in at.down or drive.node_name in at.away:
        return None
    text, todo, doing = _remedy(drive)
    return Problem("drive_down", Severity.WARNING, f"{where} is down{text}", todo, doing, objects)


def _refused(where: str, refusal: Refusal, objects: tuple[str, ...]) -> Problem:
    return Problem(
        "drive_refused",
        Severity.WARNING,
        f"{where} is refused by its server ({refusal.code}): {refusal.reason}",
        REFUSED,
        AGAIN,
        objects,
    )


def _reported(drive: Drive, figures: DriveFigures) -> Iterator[Problem]:
    objects = (f"drive {drive.id}", f"node {drive.node_name}")
    spent = 100 * (figures.used + figures.reserved) // max(1, figures.capacity)
    if spent >= FULL_PERCENT:
        yield Problem(
            "drive_full",
            Severity.WARNING,
            f"{_where(drive)} is {spent} % full",
            "add a drive (`drystone drive add NODE DEVICE`), or delete or trim volumes: see "
            "docs/runbooks/pool-full.md",
            "it cleans up as it can; when nothing is left new space is refused, what is there "
            "can still be read and written anew",
            objects,
        )
    if figures.bad_blocks:
        text, todo = _bad_blocks(drive.id, figures)
        yield Problem(
            "bad_blocks",
            Severity.WARNING,
            f"{_where(drive)} {text}",
            todo,
            "reads of them go to other copies, from which they are written anew",
            objects,
        )
    for said in figures.stuck_copies:
        yield Problem(
            "copy_stuck",
            Severity.WARNING,
            said,
            "see docs/operations.md, *A copy does not go on*",
            "it tries again; the other copies serve, this drive does not count as one",
            (*objects, said),
        )


def _where(drive: Drive) -> str:
    return f"drive {drive.id} on {drive.node_name}"


def _reopen(reason: str) -> str:
    """How a failed drive comes back, where its server did not find out what is to be cured."""
    if ENOSPC in reason:
        return "free space there, then restart its server"
    return (
        "see the log of its server and `dmesg`; a restart of that server opens it again, "
        "replace the disk if it fails again"
    )


def _bad_blocks(drive: int, figures: DriveFigures) -> tuple[str, str]:
    healed = min(figures.healed_blocks, figures.bad_blocks)
    left = figures.bad_blocks - healed
    had = f"had {figures.bad_blocks} bad blocks, {healed} healed from another copy"
    if left:
        return f"{had}, {left} not healed", (
            "they are tried again by themselves; if the other copies "
            "are up and the number stays, replace the drive"
        )
    return had, f"run `drystone drive scrub {drive}` to find others, replace it if they grow"


def _remedy(drive: Drive) -> tuple[str, str, str]:
    if drive.reason == STOPPED:
        # History: its node is connected again.
        todo = "its server runs again and has not opened it yet, see its log if that lasts"
        return "", todo, "its server opens it, which replays its log"
    if not drive.ended and drive.reason:
        # Proven by others, not said by its server: it reports itself when it does well.
        return (
            f" ({drive.reason})",
            (
                "it comes back by itself when it does well again; if it does not, "
                "its server may be frozen or its device hang: see its log or restart it"
            ),
            "its server looks whether it does well again, and offers it then",
        )
    why = f" ({drive.reason})" if drive.reason else ""
    return (
        why,
        (
            "see the log of its server, which opens it again at a restart; replace the disk "
            "if it fails again"
        ),
        "the other copies serve",
    )
