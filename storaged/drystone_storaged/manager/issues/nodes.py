"""Nodes, their beacons and block daemons, and the paths between them."""

from __future__ import annotations

from collections.abc import Iterator

from drystone_storaged.cluster.maintenance import overdue
from drystone_storaged.cluster.records import Maintenance, Node
from drystone_storaged.cluster.replace import has_room
from drystone_storaged.manager.issues.look import Moment, moment, names
from drystone_storaged.manager.problems import Problem, Severity

DROPPED = (
    "its drives leave the placement groups of which others have the data; when it is back they "
    "copy what they missed"
)


def of_nodes(at: Moment) -> Iterator[Problem]:
    """Storage nodes that are away."""
    needed = {d.node_name for d in at.drives if d.id in at.needed}
    for node in sorted(at.servers, key=lambda each: each.name):
        if node.name not in at.away:
            continue
        record = at.seen.maintenance.get(node.uuid)
        if record is not None and (node.name in at.worked_on or overdue(record, at.seen.now_s)):
            yield _maintenance(at, node, record)
            continue
        todo = "start `drystone server` there or see its log"
        # While I/O waits for copies nobody shall give one up.
        if node.name not in needed and not at.worst:
            todo += f"; if it is gone for good, {_forget(at, node)}"
        yield Problem(
            "node_away",
            Severity.WARNING,
            f"node {node.name} is not connected",
            todo,
            DROPPED,
            (f"node {node.name}",),
            at.away_since_s(node),
        )


def _forget(at: Moment, node: Node) -> str:
    forget = f"`drystone node forget {node.name} --yes`"
    known = {each.uuid: each for each in at.servers}
    if has_room(at.state, known, node.uuid):
        return f"{forget} places its copies elsewhere"
    return f"add another node for its copies, then {forget}"


def _maintenance(at: Moment, node: Node, record: Maintenance) -> Problem:
    reason = f" ({record.reason})" if record.reason else ""
    until, objects = moment(record.until_s), (f"node {node.name}",)
    if node.name in at.worked_on:
        return Problem(
            "node_in_maintenance",
            Severity.WARNING,
            f"node {node.name} is away, in maintenance until {until}{reason}",
            "nothing before then; start its server when it is done",
            f"{DROPPED}; no copy is made anew elsewhere before",
            objects,
            at.away_since_s(node),
        )
    return Problem(
        "maintenance_overdue",
        Severity.WARNING,
        f"the maintenance of node {node.name}{reason} should have ended at {until}, and it is "
        "not connected",
        f"start `drystone server` there, or say how much longer (`drystone node maintenance "
        f"{node.name} --for 1h`)",
        DROPPED,
        objects,
        record.until_s,
    )


def of_beacons(at: Moment) -> Iterator[Problem]:
    """Beacons that are processes of their own; a node that is away is told of already."""
    for name in sorted(set(at.seen.beacons_away).difference(at.away)):
        yield Problem(
            "beacon_away",
            Severity.WARNING,
            f"the beacon of node {name} is not connected, without it the server there answers no "
            "reads",
            "start `drystone beacon` there or see its log",
            "other copies answer reads; if the others do not hear it either, its drives are "
            "dropped within seconds",
            (f"node {name}",),
        )


def of_voters(at: Moment) -> Iterator[Problem]:
    """Nodes that are there and are not on the list of voters; before the first list all are."""
    if not at.seen.voters:
        return
    gone = {*at.away, *at.seen.beacons_away}
    found = (n.name for n in at.servers if n.uuid not in at.seen.voters and n.name not in gone)
    for name in sorted(found):
        yield Problem(
            "not_voting",
            Severity.WARNING,
            f"node {name} does not vote on silence yet",
            "nothing for a few seconds; then see the logs of the beacons (`silence_not_reported`)",
            "the list of voters changes by one node at a time, when every node uses the newest "
            "one; until then a node that falls silent may not be dropped",
            (f"node {name}",),
        )


def of_clients(at: Moment) -> Iterator[Problem]:
    """Block daemons that are away with volumes."""
    for name, volumes in sorted(at.seen.waiting.items()):
        yield Problem(
            "client_away",
            Severity.WARNING,
            f"the block daemon of node {name} is not connected, devices of {names(volumes)} wait "
            "if it is dead or frozen",
            "see its log, start it there; to use a volume elsewhere, "
            f"`drystone volume detach NAME --node {name} --force`",
            "a daemon that lives and only lost the manager goes on; the volumes stay its own "
            "until they are fenced",
            (f"node {name}", *(f"volume {volume}" for volume in sorted(volumes))),
        )


def of_paths(at: Moment) -> Iterator[Problem]:
    """Two processes that do not reach each other, while others reach both."""
    for name, number in at.seen.unreached:
        drive = at.state.drives.get(number)
        if drive is not None and drive.node_name != name:
            yield Problem(
                "path_broken",
                Severity.WARNING,
                f"{name} does not reach drive {number} on {drive.node_name} ({drive.addr}) itself, "
                "its writes go there through others and are slower",
                "see to the network or a firewall between the two",
                "other drives of the same placement groups pass its writes on",
                (f"node {name}", f"drive {number}"),
            )


def of_claims(at: Moment) -> Iterator[Problem]:
    """One identity in two places: a state folder was copied, and both are alive."""
    for name in sorted(at.seen.claimed):
        yield Problem(
            "claimed_twice",
            Severity.WARNING,
            f"{name} is claimed twice: another live process shows the same identity and is refused",
            "find the machine whose state folder is a copy (its log says "
            "`node_already_connected`), stop its process and remove that folder",
            "it goes on with the one that came first",
            (f"node {name}",),
        )
