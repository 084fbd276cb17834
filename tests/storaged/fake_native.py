"""Stand-ins for the native cores: they record what they are told and answer at once."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

# As the sequencer counts them (``crates/sequencer/src/stats.rs``), and some that nobody shows.
# A file that begins so is a drive without superblocks; then comes the drive that its segments name.
LOST = "lost:"
ENGINE_COUNTERS = {
    "completed": 9, "failed": 1, "writes": 7, "reads": 5, "insync_waits": 3, "credit_waits": 2,
    "resends": 4, "stall_us": 1_500_000,
}  # fmt: skip

# As the block thread counts requests (``crates/block/src/io_stats.rs``), with fewer buckets.
ENGINE_IO = {
    "in_flight": 2,
    "read": {"completed": 5, "failed": 0, "bytes": 20480},
    "write": {"completed": 3, "failed": 1, "bytes": 12288},
    "flush": {"completed": 1, "failed": 0, "bytes": 0},
    "trim": {"completed": 1, "failed": 0, "bytes": 1 << 20},
    "status": {"completed": 0, "failed": 0, "bytes": 0},
    "read_latency": {"buckets": [[50, 1], [100, 4]], "count": 5, "sum_us": 700},
    "write_latency": {"buckets": [[50, 0], [100, 3]], "count": 3, "sum_us": 240},
}


_TIMES = {"buckets": [[50, 1], [100, 4]], "count": 5, "sum_us": 700}

# As a drive's thread counts; a test compares the names with those of the engine.
DRIVE_STATS: dict[str, Any] = {
    "counters": {"writes": 3, "resync_bytes": 0, "healed": 0, "unhealed": 0, "bad_found": 0,
                 "denied": 0},
    "space": {"total_slots": 1000, "live_slots": 10, "grantable_slots": 900,
              "granted_slots": 5, "reserve_slots": 50},
    "oldest_io_us": 0,
    "peers": 0,
    "device": {"p99_us": 0, "ops": 0, "slow": False, "queue_depth": 0,
               "read": _TIMES, "write": _TIMES, "flush": _TIMES},
    "lease_margin_us": 1_000_000,
    "resync_bytes_left": 0,
    "log": {"moved_blocks": 2, "collected_segments": 1, "checkpoints": 1,
            "segments": {"free": 5, "open": 3, "closed": 2, "emptied": 0, "discarding": 0,
                         "checkpoint": 1, "stuck": 0}},
    "refused": {"malformed": 0, "wrong_cluster": 0, "protocol": 0, "key_epoch": 0,
                "bad_proof": 2, "bad_frame": 0, "too_slow": 0, "too_many": 0},
}  # fmt: skip

BEACON_STATS: dict[str, Any] = {
    "refused": {"malformed": 1, "bad_mac": 0, "own_name": 0, "stale": 0, "earlier_boot": 3,
                "unanswered": 0, "too_many": 0},
    "lease_margin_us": 1_200_000,
}  # fmt: skip


class FakeEvents:
    """An event file as the native side has one."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._queue: list[str] = []
        self._lock = threading.Lock()

    def event_fd(self) -> int:
        return self._fd

    def events(self) -> list[str]:
        with self._lock:
            taken, self._queue = self._queue, []
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        return taken

    def emit(self, kind: str, **fields: Any) -> None:
        with self._lock:
            self._queue.append(json.dumps({"kind": kind, **fields}))
        os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        os.close(self._fd)


class FakeTools:
    """Drive files that are JSON: enough to be blank, ours, foreign or missing."""

    def __init__(self) -> None:
        self.in_use: set[str] = set()

    def salvage_drive(self, path: str, spec: str) -> str:
        text = Path(path).read_text()
        if not text.startswith(LOST + json.loads(spec)["uuid"]):
            raise RuntimeError("no segments name it")
        Path(path).write_text(text.partition("\n")[2])
        return self.inspect_drive(path)

    def inspect_drive(self, path: str) -> str:
        file = Path(path)
        if path in self.in_use:
            return json.dumps({"state": "in-use", "reason": "locked", "size": 0})
        if not file.exists():
            return json.dumps({"state": "missing", "reason": "no file", "size": 0})
        text = file.read_text()
        if not text:
            return json.dumps({"state": "blank", "reason": "", "size": 2 << 30})
        if text.startswith(LOST):
            return json.dumps({"state": "damaged", "reason": "superblocks lost", "size": 2 << 30})
        try:
            return json.dumps({"state": "drystone", "reason": "", **json.loads(text)})
        except ValueError:
            return json.dumps({"state": "foreign", "reason": "it holds text", "size": len(text)})

    def format_drive(self, path: str, spec: str) -> str:
        wanted = json.loads(spec)
        found = json.loads(self.inspect_drive(path))["state"]
        assert found == ("missing" if wanted["create_bytes"] else "blank")
        block = {
            "uuid": wanted["uuid"], "cluster": wanted["cluster"], "nonce": 0, "revision": 0,
            "incarnation": wanted["incarnation"], "size": wanted["create_bytes"] or 1 << 30,
            "feature_level": 1, "drive": 0,
        }  # fmt: skip
        Path(path).write_text(json.dumps(block))
        return self.inspect_drive(path)


class FakeBeaconCore(FakeEvents):
    """See ``drystone_native.BeaconCore``."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Any]] = []
        self.still = False
        self.stopped = False

    def start(self, config: str) -> str:
        self.told.append(("start", json.loads(config)))
        return str(json.loads(config)["listen"])

    def voters(self, version: int, voters: list[str], nodes: list[tuple[str, str]]) -> None:
        self.told.append(("voters", (version, voters, nodes)))

    def suspects(self, as_of: int, keys: list[tuple[str, int]]) -> None:
        self.told.append(("suspects", (as_of, keys)))

    def ask_vote(self, node: str, round: int) -> None:  # noqa: A002
        self.emit("vote", node=node, round=round, granted=True)

    def revoke(self, round: int, instance: int) -> None:  # noqa: A002
        self.told.append(("revoke", (round, instance)))
        self.emit("revoked", round=round, granted=self.still)

    def stats(self) -> str:
        return json.dumps(BEACON_STATS)

    def stop(self) -> None:
        self.stopped = True


class FakeServerCore(FakeEvents):
    """See ``drystone_native.ServerCore``."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[int, dict[str, Any]] = {}
        self.fail_open: dict[str, str] = {}
        self.maps: list[tuple[bytes, int | None]] = []
        self.controls: list[tuple[int, dict[str, Any]]] = []
        self.told: list[tuple[str, Any]] = []
        self.hung: set[int] = set()
        self.device: dict[str, Any] = {}
        self.suspect_opens = 0
        self.opened: list[dict[str, Any]] = []
        self.stopped = False

    def open_drive(self, config: str) -> None:
        wanted = json.loads(config)
        number = wanted["drive"]
        reason = self.fail_open.get(wanted["path"])
        if reason is not None:
            self.emit("drive_failed", drive=number, reason=reason)
            return
        file = Path(wanted["path"])
        block = json.loads(file.read_text())
        file.write_text(json.dumps({**block, "nonce": wanted["nonce"], "drive": number,
                                    "revision": wanted["revision"]}))  # fmt: skip
        self.open[number] = wanted
        self.opened.append(wanted)
        suspect = "DurableGroupsLost" if len(self.opened) <= self.suspect_opens else None
        self.emit("drive_ready", drive=number, replayed_bytes=0, open_us=1, suspect=suspect)

    def close_drive(self, drive: int) -> None:
        del self.open[drive]
        self.emit("drive_closed", drive=drive)

    def start_beacon(self, listen: str, boot: int) -> str:
        self.told.append(("beacon", boot))
        return listen

    def use_beacon(self, run_dir: str, instance: int) -> None:
        self.told.append(("page", run_dir))

    def map(self, data: bytes, read_began_us: int | None) -> None:
        self.maps.append((data, read_began_us))

    def generations(self, drive: int, pool: int, revision: int, entries: Any) -> None:
        self.told.append(("generations", (drive, pool, revision, list(entries))))

    def _compare(self, drive: int) -> dict[str, int]:
        held = {"kind": "data", "generation": 1, "sequence": 7}
        for _ in range(2):  # the group's members changed, and it was begun anew
            self.emit(
                "report", what="divergent", drive=drive, pool=1, pg=3, volume=1, layer=16, chunk=0,
                block=5, other=2, ours=held, theirs=None,
            )  # fmt: skip
        return {
            "chunks": 2, "blocks": 10, "unstable": 1, "bad_here": 0, "bad_there": 0, "divergent": 1,
        }  # fmt: skip

    def control(self, drive: int, request_id: int, request: str) -> None:
        if drive not in self.open:
            raise RuntimeError(f"drive {drive} is not open here")
        wanted = json.loads(request)
        self.controls.append((drive, wanted))
        sealed = wanted.get("generation")
        more: dict[str, Any] = {}
        if wanted["what"] == "exercise":
            more = {"p99_us": 900, "errors": 0}
        elif wanted["what"] == "compare":
            more = {"compared": self._compare(drive)}
        self.emit(
            "control_done", drive=drive, id=request_id, ok=True, sealed=sealed, reason=None, **more
        )
        if wanted["what"] == "scrub":
            self.emit("report", what="scrub_done", drive=drive, blocks=10, bad=7, healed=5)

    def voters(self, version: int, voters: list[str], nodes: list[tuple[str, str]]) -> None:
        self.told.append(("voters", (version, voters, nodes)))

    def suspects(self, as_of: int, keys: list[tuple[str, int]]) -> None:
        self.told.append(("suspects", (as_of, keys)))

    def ask_vote(self, node: str, round: int) -> None:  # noqa: A002
        self.emit("vote", node=node, round=round, granted=True)

    def stats(self) -> str:
        space = {"total_slots": 1000, "live_slots": 10, "grantable_slots": 900,
                 "granted_slots": 5, "reserve_slots": 50}  # fmt: skip
        device = {**DRIVE_STATS["device"], **self.device}
        one = {**DRIVE_STATS, "space": space, "device": device}
        return json.dumps({"drives": {str(d): one for d in self.open if d not in self.hung}})

    def stop(self) -> None:
        self.stopped = True
        self.open.clear()


class FakeBlockCore(FakeEvents):
    """See ``drystone_native.BlockCore``: attaches, asks for the activation, becomes active."""

    def __init__(self) -> None:
        super().__init__()
        self.attached: dict[int, dict[str, Any]] = {}
        self.tickets: dict[int, bytes] = {}
        self.outcomes: list[tuple[int, int, str]] = []
        self.hold: set[int] = set()
        self.generation = 0
        self.stopped = False

    def map(self, data: bytes) -> None:
        pass

    def attach(self, ticket: bytes, config: str) -> None:
        volume = int.from_bytes(ticket[9:17], "little")
        generation = int.from_bytes(ticket[17:21], "little")
        size = int.from_bytes(ticket[56:64], "little")
        self.attached[volume] = {**json.loads(config), "generation": generation, "size": size}
        self.tickets[volume] = ticket
        Path(self.attached[volume]["socket"]).touch()
        self.emit("state", volume=volume, generation=generation, state="sealing")
        if not self.attached[volume]["recover"]:
            self.emit("state", volume=volume, generation=generation, state="active")
        elif volume not in self.hold:
            self.emit("want_activate", volume=volume, generation=generation)

    def activated(self, volume: int, generation: int, outcome: str) -> None:
        self.outcomes.append((volume, generation, outcome))
        if outcome == "ok":
            self.emit("state", volume=volume, generation=generation, state="active")
        elif outcome == "superseded":
            self.emit("fenced", volume=volume, generation=generation, reason="superseded")

    def ticket(self, volume: int, ticket: bytes) -> None:
        self.tickets[volume] = ticket
        self.attached[volume]["size"] = int.from_bytes(ticket[56:64], "little")
        serial = int.from_bytes(ticket[5:9], "little")
        self.emit("ticket_in_force", volume=volume, serial=serial)

    def detach(self, volume: int) -> None:
        fenced = self.attached.pop(volume).get("fenced", False)
        self.emit("detached", volume=volume, clean=not fenced)

    def revoked(self, volume: int) -> None:
        self.attached[volume]["fenced"] = True
        generation = self.attached[volume]["generation"]
        self.emit("fenced", volume=volume, generation=generation, reason="the manager said so")

    def stats(self) -> str:
        volumes = {
            str(v): {"state": "active", "generation": a["generation"], "size": a["size"],
                     "connections": 0, "counters": ENGINE_COUNTERS, "io": ENGINE_IO}
            for v, a in self.attached.items()
        }  # fmt: skip
        return json.dumps({"volumes": volumes, "drives_up": []})

    def stop(self) -> None:
        self.stopped = True
