"""Turns what the parts of a manager tell into events and counts. It decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from drystone_storaged.cluster.events import EventBook
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership_service import Change
from drystone_storaged.cluster.nodes import Role
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import Drive, Volume
from drystone_storaged.manager.control.sessions import SessionKey, SessionRegistry
from drystone_storaged.manager.problems import Problem
from drystone_storaged.manager.tally import Tally

WARNING: Final = "Warning"

ROLES: Final[tuple[Role, ...]] = ("server", "client", "beacon")

SETTLE_S: Final = 20.0
"""After an election everything that lives connects anew: `services.COME_BACK_S` says why so long.
What comes and goes until then is no news."""

REASONS: Final = {
    "connection refused": "process_dead",
    "silent to a majority": "silent",
    "its beacon says that its server is gone or stands still": "still",
    "drive hangs": "hangs",
    "reported while joining": "joiner_reported",
}
"""Of evidence, as a label; everything else is what a server said of its own drive."""

SLOW: Final = "slow: "  # so begins why a slow drive leaves

OUTCOMES: Final = {
    "dropped": "was silent or stood still, and its drives were dropped",
    "heard": "was suspected, and is heard by too many",
    "moves": "was suspected to stand still, and moves again",
    "failed": "was suspected, and it came to nothing",
}


class Chronicle:
    """Compares each moment with the one before."""

    def __init__(
        self,
        book: EventBook,
        tally: Tally,
        sessions: SessionRegistry,
        led_s: Callable[[], float],
    ) -> None:
        self.book = book
        self.tally = tally
        self._sessions = sessions
        self._led_s = led_s
        self._drives: dict[int, Drive] | None = None
        self._connected: dict[SessionKey, str] = {}
        self._problems: dict[tuple[str, tuple[str, ...]], Problem] = {}

    def clear(self) -> None:
        """Another one led meanwhile: what differs from before is not what happened now."""
        self._drives = None
        self._problems = {}
        self._connected = {}

    def elected(self, name: str) -> None:
        """This manager leads from now on."""
        self.book.note("leader_elected", f"manager {name}", "it leads from now on")

    def membership(self, change: Change) -> None:
        """Members of placement groups changed."""
        pgs = change.before.known_pgs()
        found: dict[str, Counter[int]] = {name: Counter() for name in ("drop", "join", "promote")}
        for ref, new in change.changed.items():
            for name, drives in _moves(pgs[ref], new).items():
                found[name].update(drives)
        lost = change.what == "mark-lost"
        reason = "marked_lost" if lost else _label(change.reason)
        reason = reason if change.reason or lost else "moved"
        self.tally.drops[reason] += found["drop"].total()
        self.tally.joins[""] += found["join"].total()
        self.tally.promotions[""] += found["promote"].total()
        for drive, pgs_of in found["drop"].items():
            why = change.reason or ("given up" if lost else "moved, others have all it had")
            level = "Normal" if reason == "moved" else WARNING
            self._note(change, drive, "drive_dropped", f"left {pgs_of} PGs ({why})", level)
        for drive, pgs_of in found["join"].items():
            self._note(change, drive, "drive_joins", f"copies what it lacks of {pgs_of} PGs")
        for drive, pgs_of in found["promote"].items():
            self._note(change, drive, "drive_in_sync", f"is in sync in {pgs_of} PGs")
        if lost:
            for ref, new in change.changed.items():
                name = f"{change.before.pools[ref.pool].name}/{ref.pg}"
                said = f"its data was given up, drive {new.insync[0]} took over with what it had"
                self.book.note("marked_lost", f"pg {name}", said, WARNING)

    def _note(
        self, change: Change, drive: int, kind: str, message: str, level: str = "Normal"
    ) -> None:
        known = change.before.drives.get(drive)
        where = f" on {known.node_name}" if known else ""
        self.book.note(kind, f"drive {drive}{where}", message, level)

    def map_news(self, state: MapState) -> None:
        """A newer map was read: drives came up, went down, are new or forgotten."""
        old, self._drives = self._drives, state.drives
        if old is None or old is state.drives:
            return
        for number, drive in state.drives.items():
            before = old.get(number)
            name = f"drive {number} on {drive.node_name}"
            if before is None:
                self.book.note("drive_new", name, f"came in, {drive.capacity} bytes")
            elif before.state is not drive.state:
                why = f" ({drive.reason})" if drive.reason else ""
                level = "Normal" if drive.state.value == "up" else WARNING
                self.book.note(f"drive_{drive.state.value}", name, f"is {drive.state}{why}", level)

    def sessions_changed(self) -> None:
        """Processes came or went."""
        now = {s.key: s.name for role in ROLES for s in self._sessions.all(role)}
        if self._led_s() < SETTLE_S:
            self._connected = now  # everybody comes anew to who was just elected
            return
        for key in now.keys() - self._connected.keys():
            self.book.note("connected", f"{key[0]} {now[key]}", "has a session with the manager")
        for key in self._connected.keys() - now.keys():
            name = f"{key[0]} {self._connected[key]}"
            self.book.note("disconnected", name, "its session with the manager ended", WARNING)
        self._connected = now

    def problems(self, found: Iterable[Problem]) -> None:
        """What is wrong now; a problem that comes or goes is an event."""
        now = {each.same: each for each in found}
        if self._led_s() < SETTLE_S:
            self._problems = now  # most of it is that nobody has come yet
            return
        for same in now.keys() - self._problems.keys():
            self.book.note(f"problem_{same[0]}", _objects(same[1]), now[same].text, WARNING)
        for same in self._problems.keys() - now.keys():
            text = f"it is over: {self._problems[same].text}"
            self.book.note(f"problem_{same[0]}_over", _objects(same[1]), text)
        self._problems = now

    def known(self) -> list[Problem]:
        """What was wrong at the newest look."""
        return list(self._problems.values())

    def suspicion(self, node: str, outcome: str) -> None:
        """What came of a suspicion."""
        self.tally.suspicions[outcome] += 1
        session = self._sessions.get(("server", node)) or self._sessions.get(("beacon", node))
        name = session.name if session else self._connected.get(("server", node), node)
        self.book.note("suspicion", f"node {name}", OUTCOMES[outcome], WARNING)

    def fenced(self, volume: Volume) -> None:
        """Nobody of before can write a volume any more."""
        text = f"writers before generation {volume.generation} are shut out, proven"
        self.book.note("fenced", f"volume {volume.name}", text)


def _label(reason: str) -> str:
    """Of evidence; what was measured is in the reason of a slow drive."""
    return "slow" if reason.startswith(SLOW) else REASONS.get(reason, "by_its_server")


def _objects(names: Sequence[str]) -> str:
    return ", ".join(names) or "cluster"


def _moves(old: PgRecord, new: PgRecord) -> dict[str, set[int]]:
    """Who left, began to copy, or came in sync."""
    before, after = set(old.members()), set(new.members())
    was, joining = set(old.insync), {joiner.drive for joiner in new.joining}
    return {
        "drop": before - after,
        "join": joining - before,
        "promote": {d for d in new.insync if d not in was} & before,
    }
