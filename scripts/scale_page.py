"""The generated part of docs/scale.md."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from drystone_storaged.cluster.pgmap import SHARD_PGS

if TYPE_CHECKING:
    from scripts.scale import Figures

NONE: Final = "-"
MEGA: Final = 1_000_000
CONSUMERS: Final = (63, 1000)
"""Beside the servers: as many nodes again, and the attached clients that the design names."""

CHANGES_PER_S: Final = 5  # the most: promotions come in batches, 200 ms apart
BEACON_PERIOD_S: Final = 0.150
STATUS_S: Final = 5.0  # of a server with changing figures


def mega(size: float) -> str:
    """Bytes for people."""
    return f"{size / MEGA:,.1f} MB" if size >= MEGA else f"{size / 1e3:,.1f} kB"


def table(head: str, rows: list[list[str]]) -> list[str]:
    """Lines of a table."""
    titles = [cell.strip() for cell in head.split("|")]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def step_rows(found: Figures) -> list[list[str]]:
    """What each event costs the manager."""
    rows = []
    for step in found.steps:
        counts, (ops, compares, size) = step.counts, step.largest
        read = ", ".join(f"{n} {prefix}" for prefix, n in counts.keys_read.most_common(3))
        rows.append([
            step.name, str(step.groups or NONE), str(counts.requests), read or NONE,
            str(len(counts.txns)), f"{ops} + {compares}" if ops else NONE,
            mega(size) if size else NONE, str(step.probes or NONE), f"{counts.cpu_s:.2f} s",
        ])  # fmt: skip
    return rows


def traffic_rows(found: Figures) -> list[list[str]]:
    """What changes of the map cost the manager's network, by what is sent."""
    kinds = {
        "whole map (as it is)": found.map_bytes,
        "whole map, deflated": found.packed_bytes,
        f"changed shards ({SHARD_PGS} groups each)": found.shard_bytes,
        "changed groups and drives": found.groups_bytes,
    }
    rows = []
    for name, size in kinds.items():
        sums = [size * (found.size.nodes + consumers) for consumers in CONSUMERS]
        rates = [f"{mega(CHANGES_PER_S * each)}/s" for each in sums]
        rows.append([name, mega(size), *(mega(each) for each in sums), *rates])
    return rows


def start_rows(found: Figures) -> list[list[str]]:
    """Calls of processes at their start, as the programs make them."""
    size, clients = found.size, CONSUMERS[-1]
    (start,) = [s for s in found.steps if s.name.startswith("one drive at the start")]
    opens = 2 * size.all_drives
    per_server = 4 + 2 * size.drives
    calls = size.nodes * (per_server + 2) + 3 * clients
    return [
        [
            "server",
            (
                f"Register, Session, MapStream, ReadMap, OpenDrive and ReportDrive of "
                f"{size.drives} drives; ReadGenerations of each that was away"
            ),
            str(per_server),
        ],
        ["beacon", "Register, Session", "2"],
        ["block daemon", "Register, Session, MapStream; ReAdopt, Activate of each attachment", "3"],
        [
            "everything at once",
            f"{size.nodes} servers, as many beacons, {clients:,} consumers",
            f"{calls:,}",
        ],
        [
            "of that, the manager's looks at the map",
            f"{opens:,} x {start.counts.cpu_s / 2:.3f} s",
            f"{opens * start.counts.cpu_s / 2:.0f} s of processor time",
        ],
    ]


def clock_rows(found: Figures) -> list[list[str]]:
    """What comes by the clock."""
    size = found.size
    per_node = (size.nodes - 1) / BEACON_PERIOD_S
    return [
        ["heartbeat", f"{found.heartbeat_bytes:,} B", f"{per_node:,.0f}/s out, as many in",
         f"{mega(per_node * found.heartbeat_bytes)}/s each way",
         f"{mega(size.nodes * per_node * found.heartbeat_bytes)}/s"],
        ["status of a server, busy", f"{found.status_bytes:,} B", f"every {STATUS_S:.0f} s",
         f"{found.status_bytes / STATUS_S:,.0f} B/s",
         f"{mega(size.nodes * found.status_bytes / STATUS_S)}/s to the manager"],
        [f"first status of a session, {size.volumes:,} volumes on every drive",
         mega(found.layers_bytes), "once a session", NONE,
         f"{mega(size.nodes * found.layers_bytes)} after an election"],
    ]  # fmt: skip


def page(found: Figures) -> list[str]:
    """The part of the page that is generated."""
    size = found.size
    stamp = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    today = datetime.now(tz=UTC).date()
    slots, fair, every = found.moved
    return [
        (
            f"Measured on {today}, commit {stamp.stdout.strip() or '?'}: {size.nodes} nodes x "
            f"{size.drives} drives = {size.all_drives} drives, {size.pgs:,} placement groups of "
            f"three copies, {size.volumes:,} volumes."
        ),
        "",
        "### What events cost the manager",
        "",
        *table(
            "event | groups changed | requests to the store | keys read | transactions | largest: "
            "operations + comparisons | bytes | probes | processor time",
            step_rows(found),
        ),
        "### A change of the map, told to everybody",
        "",
        *table(
            f"what is sent for the drop of a node | to one | to {size.nodes + CONSUMERS[0]} | to "
            f"{size.nodes + CONSUMERS[1]:,} | {CHANGES_PER_S} a second, "
            f"{size.nodes + CONSUMERS[0]} | {CHANGES_PER_S} a second, "
            f"{size.nodes + CONSUMERS[1]:,}",
            traffic_rows(found),
        ),
        *table("work | processor time", [[k, f"{v * 1e3:.1f} ms"] for k, v in found.cpu.items()]),
        "### Start-up",
        "",
        *table("process | calls of the control channel | number", start_rows(found)),
        "### By the clock",
        "",
        *table("message | size | of one node | bytes | all nodes", clock_rows(found)),
        "### Placement and memory",
        "",
        (
            f"One node more moves {slots:,} of {every:,} places; its fair share is {fair:,}. "
            f"One more map in the manager's memory takes about {mega(found.state_bytes)} beside "
            "the first, with which it shares the records."
        ),
        "",
    ]
