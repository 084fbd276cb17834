"""What a cluster of the planned size costs: measured on a map of that size, for docs/scale.md.

Records are read, changed and told by the code that a manager runs, over a store that counts;
processor time is that of this process, so a busy machine changes little. ``--check`` writes
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from scripts.scale_page import page
from scripts.scale_world import CAPACITY, Counts, Size, World, world

import drystone_native
from drystone_common.logs import configure_logging
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.binary import Writer
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord, encode_map, encode_pg
from drystone_storaged.proto import control_pb2 as pb
from drystone_storaged.server.usage import first_in_sync

ROOT: Final = Path(__file__).resolve().parent.parent
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own below it
PAGE: Final = ROOT / "docs/scale.md"
BEGIN: Final = "<!-- figures -->"
END: Final = "<!-- end -->"

HEARTBEAT_BYTES: Final = 67 + 32  # head and MAC: docs/wire-protocol.md
ECHO_BYTES: Final = 32
UDP_BYTES: Final = 28
RETURNED_PG_BYTES: Final = 8  # pool and number before a record that travels alone


@dataclass(frozen=True, slots=True)
class Step:
    """What one event of a cluster's life costs its manager."""

    name: str
    counts: Counts
    groups: int = 0
    probes: int = 0

    @property
    def largest(self) -> tuple[int, int, int]:
        """Operations, comparisons and bytes: the most of any transaction."""
        txns = self.counts.txns
        return (
            max((t.operations for t in txns), default=0),
            max((t.compares for t in txns), default=0),
            max((t.size for t in txns), default=0),
        )


@dataclass(slots=True)
class Figures:
    """Everything that is measured."""

    size: Size
    steps: list[Step] = field(default_factory=list)
    map_bytes: int = 0
    packed_bytes: int = 0
    shard_bytes: int = 0
    groups_bytes: int = 0
    cpu: dict[str, float] = field(default_factory=dict)
    heartbeat_bytes: int = 0
    status_bytes: int = 0
    layers_bytes: int = 0
    moved: tuple[int, int, int] = (0, 0, 0)
    state_bytes: int = 0


def cpu_of(call: Callable[[], Any], times: int = 3) -> float:
    """Seconds of processor time of one call, the least of a few."""
    found = []
    for _ in range(times):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def changed_groups(before: MapState, after: MapState) -> dict[PgRef, PgRecord]:
    """Records that differ."""
    old = before.known_pgs()
    return {ref: pg for ref, pg in after.known_pgs().items() if old.get(ref) != pg}


async def life(w: World, found: Figures) -> None:
    """A node is lost, comes back, and is in sync again."""
    node, store = w.servers[0], w.store

    async def drop() -> None:
        await w.drop_node(node)

    events: Mapping[str, Callable[[], Any]] = {
        "a node is lost: drop of its drives": drop,
        "it is back: its drives are opened and ready": lambda: w.reopen_node(node),
        "its drives join": w.membership.join_wanted,
        "its copies are complete: promotion": lambda: w.promote_node(node),
    }
    for name, event in events.items():
        before, probes = await w.state(), w.prober.probes
        with store.counting() as counts:
            await event()
        after = await w.state()
        groups = changed_groups(before, after)
        found.steps.append(Step(name, counts, len(groups), w.prober.probes - probes))
        if event is drop:
            delta_sizes(found, before, after, groups)


def delta_sizes(
    found: Figures, before: MapState, after: MapState, groups: Mapping[PgRef, PgRecord]
) -> None:
    """What of a drop would travel if only changes did: whole shards, or single groups."""
    whole = encode_map(after.to_map())
    found.map_bytes = len(whole)
    found.packed_bytes = len(zlib.compress(whole, 1))
    old = {(s.pool, s.index): s.value for s in before.shards}
    shards = [s.value for s in after.shards if old[s.pool, s.index] != s.value]
    drives = [d for d, one in after.drives.items() if before.drives[d] != one]
    per_drive = (len(whole) - sum(len(s.value) for s in after.shards)) // len(after.drives)
    found.shard_bytes = sum(map(len, shards)) + len(drives) * per_drive
    out = Writer()
    for pg in groups.values():
        encode_pg(out, pg)
    found.groups_bytes = (
        len(bytes(out.out)) + RETURNED_PG_BYTES * len(groups) + len(drives) * per_drive
    )


async def the_map(w: World, found: Figures) -> None:
    """Reading, encoding, telling and taking a whole map."""
    with w.store.counting() as counts:
        state = await w.state()
    found.steps.insert(0, Step("a look at the whole map", counts))
    whole = encode_map(state.to_map())
    told = pb.MapUpdate(revision=state.revision, map=whole)
    found.cpu["encode a map"] = cpu_of(lambda: encode_map(state.to_map()))
    found.cpu["make the message for one receiver"] = cpu_of(
        lambda: pb.MapUpdate(revision=state.revision, map=whole).SerializeToString()
    )
    found.cpu["take a message apart"] = cpu_of(
        lambda: pb.MapUpdate.FromString(told.SerializeToString())
    )
    found.cpu["server: whose blocks a drive counts (at most once a second)"] = cpu_of(
        lambda: first_in_sync(whole)
    )
    found.cpu["deflate a map"] = cpu_of(lambda: zlib.compress(whole, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = [await w.state() for _ in range(20)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found.state_bytes = grown * 1024 // len(kept)


async def one_start(w: World, found: Figures) -> None:
    """A drive that is opened again, with the looks at the map of both calls."""
    node = w.servers[1]
    with w.store.counting() as counts:
        await w.open_drive(node, 2, 0, nonce=5000, previous=1, look=True)
    found.steps.append(Step("one drive at the start of its server", counts))


async def with_volumes(w: World, found: Figures) -> None:
    """What is asked of volumes."""
    await w.clone_volumes(found.size.volumes)
    revision = await w.store.revision()
    with w.store.counting() as counts:
        await w.store.range(keys.VOLUMES, limit=4096, min_mod_revision=revision + 1)
    found.steps.append(Step("generations since the newest revision", counts))
    with w.store.counting() as counts:
        after = ""
        while True:
            page = await w.store.range(keys.VOLUMES, after=after, limit=4096, min_mod_revision=1)
            if not page.more:
                break
            after = page.items[-1].key
    found.steps.append(Step("generations of every volume (a blank drive)", counts))
    with w.store.counting() as counts:
        await w.drop_node(w.servers[-1])
    found.steps.append(Step("drop of a node beside the volumes", counts))


def wire(found: Figures) -> None:
    """Messages that come by the clock."""
    size = found.size
    found.heartbeat_bytes = HEARTBEAT_BYTES + (size.nodes - 1) * ECHO_BYTES + UDP_BYTES
    drives = [
        pb.DriveStatus(
            drive=number, capacity_bytes=CAPACITY, used_bytes=CAPACITY // 2,
            reserved_bytes=CAPACITY // 20, oldest_io_us=900, p99_us=700, resync_bytes_done=1 << 40,
            recent_ops=50_000,
        )
        for number in range(700, 700 + size.drives)
    ]  # fmt: skip
    found.status_bytes = len(pb.Status(drives=drives, map_revision=1 << 24).SerializeToString())
    layers = [
        pb.LayerUsage(drive=700, layer=(1 << 20) + n, mapped_bytes=1 << 30) for n in range(1000)
    ]
    one = len(pb.Status(layers=layers).SerializeToString()) / len(layers)
    found.layers_bytes = int(one * size.volumes * size.drives)


def placing(found: Figures) -> None:
    """Placing every group, and again with one node more."""
    size = found.size

    def place(nodes: int, current: list[list[int]] | None) -> list[list[int]]:
        drives = [
            {"id": n * size.drives + d + 1, "weight": 16.0, "fault_set": f"n{n}", "node": f"n{n}"}
            for n in range(nodes)
            for d in range(size.drives)
        ]
        spec = {"drives": drives, "pg_count": size.pgs, "copies": 3, "domain": "fault-set",
                "salt": 1, "current": current, "closed": []}  # fmt: skip
        pgs: list[list[int]] = json.loads(drystone_native.place_pool(json.dumps(spec)))["pgs"]
        return pgs

    first = place(size.nodes, None)
    found.cpu["place every group"] = cpu_of(lambda: place(size.nodes, None), 1)
    found.cpu["place them with one node more, from what stands"] = cpu_of(
        lambda: place(size.nodes + 1, first), 1
    )
    more = place(size.nodes + 1, first)
    slots = sum(len(set(a) - set(b)) for a, b in zip(first, more, strict=True))
    fair = 3 * size.pgs // (size.nodes + 1)
    found.moved = (slots, fair, 3 * size.pgs)


async def measure(size: Size) -> Figures:
    """Everything, in a folder that is gone afterwards."""
    found = Figures(size)
    # In memory where there is such a folder: flushes of thousands of records are not measured.
    memory = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="drystone-scale-", dir=memory) as folder:
        async with world(Path(folder), size) as made:
            await the_map(made, found)
            await life(made, found)
            await one_start(made, found)
            await with_volumes(made, found)
    wire(found)
    placing(found)
    return found


def main() -> None:
    """Measure, and write the page."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="print, write nothing")
    options.add_argument("--volumes", type=int, default=Size().volumes)
    args = options.parse_args()
    configure_logging("scale", level="ERROR")
    text = "\n".join(page(asyncio.run(measure(Size(volumes=args.volumes)))))
    print(text)
    if not args.check:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
