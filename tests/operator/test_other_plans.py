"""Nodes, disks, pools and the update of servers: what is planned, as text."""

from __future__ import annotations

import json
from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest

from drystone_operator.models import StoragePoolSpec
from drystone_operator.models.cluster_parts import UpgradeStrategy
from drystone_operator.models.disk import DiskState
from drystone_operator.plan import cluster, disks, nodes, pools, read, rollout
from drystone_operator.plan.failover import Decision, Step
from drystone_operator.plan.views import (
    Device,
    EngineNode,
    EnginePool,
    PgCounts,
    PodView,
    Unanswered,
)
from tests.operator.wanted import NODES, SQLITE, build, drive, engine, node, pod

MUTE = EngineNode("n3", "server", connected=True, beacon_connected=False)
LABELS = {"drystone.io/cluster": "c", "app.kubernetes.io/component": "server"}
DEAF = Unanswered("unavailable", "Nobody answers.")


# Nodes -----------------------------------------------------------------------------------


def test_a_node_that_the_selector_takes_gets_an_object():
    picked = build({**SQLITE, "nodes": {"selector": {"disks": "yes"}}})
    seen = nodes.NodesSeen((node("n1"), node("n2", disks="yes")), (), engine())
    assert str(nodes.plan(picked, seen)) == "create StorageNode/n2"


@pytest.mark.parametrize(
    ("connected", "said"), [(True, "Connected"), (False, "Away"), (None, None)]
)
def test_a_node_says_whether_its_beacon_is_connected(connected, said):
    known = (EngineNode("n1", "server", connected=True, beacon_connected=connected),)
    view = nodes.StorageNodeView("n1", "n1")
    seen = nodes.NodesSeen(NODES[:1], (view,), engine("n1", nodes=known))
    (action,) = nodes.plan(build(), seen).actions
    assert action.fields.get("beacon") == said


def ready_of(seen: nodes.NodesSeen) -> str:
    return str(nodes.plan(build(), seen)).splitlines()[1].strip()


@pytest.mark.parametrize(
    ("view", "seen", "said"),
    [
        ({}, {}, "Ready=True Serving: Its server is connected and its disks are up."),
        ({"maintenance": "new memory"}, {}, "Ready=False Maintenance: In maintenance: new memory."),
        ({}, {"engine": DEAF}, "Ready=Unknown ManagerUnreachable: No manager answers."),
        (
            {}, {"engine": engine()},
            "Ready=False Joining: The server of this node has not registered yet.",
        ),
        (
            {}, {"engine": engine("n1", drives=(drive(4, "n1", "down"),))},
            "Ready=False DisksDown: 1 of its disks is not up: drive 4 is down.",
        ),
        (
            {}, {"nodes": ()},
            (
                "Ready=False NodeMissing: Kubernetes has no node n1. If it is gone for good, "
                "`kubectl drystone -n ns node forget n1 --yes` frees its name."
            ),
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_a_node(view, seen, said):
    one = nodes.StorageNodeView("n1", "n1", **view)
    values = {"nodes": NODES[:1], "objects": (one,), "engine": engine("n1"), **seen}
    assert ready_of(nodes.NodesSeen(**values)) == said


def test_the_second_object_for_a_node_is_refused_and_the_first_one_counts():
    objects = (nodes.StorageNodeView("copy", "n1", "rack9"), nodes.StorageNodeView("n1", "n1"))
    seen = nodes.NodesSeen(NODES[:1], objects, engine("n1"))
    text = str(nodes.plan(build(), seen))
    assert "status StorageNode/copy\n    Ready=False Duplicate" in text
    assert "status StorageNode/n1\n    Ready=True Serving" in text
    assert nodes.fault_sets(build(), seen) == {"n1": "zone-n1"}


ENDED = {
    "metadata": {"name": "s-n1", "namespace": "ns", "labels": LABELS},
    "spec": {"nodeName": "n1"},
    "status": {
        "containerStatuses": [
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"message": "LAST"}},
            }
        ]
    },
}


def ended(*lines: str) -> PodView:
    """A server pod whose process ended with these lines."""
    return read.pod(json.loads(json.dumps(ENDED).replace("LAST", "\\n".join(lines))))


@pytest.mark.parametrize(
    ("lines", "known", "said"),
    [
        (
            ("{}", "error: s/identity.json belongs to old, not to n1", "hint: rename it"),
            engine(),
            (
                "Joining: The server of this node has not registered yet. It ended with: "
                "s/identity.json belongs to old, not to n1; rename it."
            ),
        ),
        (
            ("error: the join token file j does not exist",),
            replace(engine("n1"), nodes=(EngineNode("n1", "server", connected=False),)),
            (
                "ServerDown: The server of this node is not connected to a manager. It ended with: "
                "the join token file j does not exist. If the machine was installed anew, its "
                "identity is lost: `kubectl drystone -n ns node forget n1 --yes` frees the "
                "name, and it joins as a new node. What its disks hold is then "
                "given up, and copied from the others."
            ),
        ),
        (("killed",), engine(), "Joining: The server of this node has not registered yet."),
    ],
)
def test_a_renamed_cloned_or_reinstalled_node_says_why_it_does_not_join(lines, known, said):
    one = nodes.StorageNodeView("n1", "n1")
    seen = nodes.NodesSeen(NODES[:1], (one,), known, pods=(ended(*lines),))
    assert ready_of(seen) == f"Ready=False {said}"


def test_a_node_of_another_cluster_is_left_to_it():
    bears: dict[str, Any] = {"drystone.io/server": "ns2.d"}
    other = node("n1", **bears)
    seen = nodes.NodesSeen((other,), (nodes.StorageNodeView("n1", "n1"),), engine("n1"))
    assert ready_of(seen).startswith(
        "Ready=False NodeTaken: Node n1 belongs to StorageCluster ns2.d (namespace.name)."
    )
    looked = cluster.ClusterSeen(nodes=(other,), storage_nodes={"n1": ""}, engine=engine())
    assert cluster.admissions(build(), looked) == []
    mine = replace(other, labels=NODES[0].labels)
    assert cluster.admissions(build(), replace(looked, nodes=(mine,))) != []


def test_a_fail_over_is_told_on_the_node():
    decision = Decision(Step.MOVING, (), "the node is fenced: 1 pod")
    objects = (nodes.StorageNodeView("n1", "n1"),)
    seen = nodes.NodesSeen(NODES[:1], objects, engine("n1"), {"n1": decision})
    assert "Fenced=True MovingPods: The node is fenced: 1 pod." in str(nodes.plan(build(), seen))


# Disks -----------------------------------------------------------------------------------

BLANK = Device("ata-X1", "/dev/sda", 1 << 40, "ssd", "blank", serial="X1")
FOREIGN = replace(BLANK, state="foreign", found="an ext4 file system")
OURS = replace(BLANK, state="ours", drive="drive-1")


def disk(state: DiskState = DiskState.IN, device: str = "ata-X1") -> disks.StorageDiskView:
    return disks.StorageDiskView("d", "n1", device, state)


def first_lines(plan: disks.DiskPlan) -> str:
    text = str(plan).splitlines()
    return "\n".join(line.strip() for line in text if ":" in line or "device" in line)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (BLANK, "take device ata-X1 of n1"),
        (replace(BLANK, state="ours", drive="drive-9"), "take device ata-X1 of n1"),
        (FOREIGN, "Ready=False Refused: /dev/sda is left alone: it holds an ext4 file system."),
        (
            replace(BLANK, state="used_elsewhere", found="a drive of cluster 77"),
            "Ready=False Refused: /dev/sda is left alone: it holds a drive of cluster 77.",
        ),
        (
            replace(BLANK, state="in_use"),
            "Ready=False Refused: /dev/sda is left alone: it holds in_use.",
        ),
        (
            replace(BLANK, state="a word of a later version"),
            "Ready=False Refused: /dev/sda is left alone: it holds a word of a later version.",
        ),
        (
            replace(BLANK, wanted="refused", reason="drive_foreign: it has a partition table"),
            (
                "Ready=False Refused: The server of node n1 refuses /dev/sda: drive_foreign: "
                "it has a partition table"
            ),
        ),
        (OURS, "Ready=True Up: Drive 1 is up."),
    ],
)
def test_a_wanted_disk_is_taken_only_if_it_is_blank_or_ours(device, said):
    text = str(disks.plan(disk(), (device,), engine("n1")))
    assert said in [line.strip() for line in text.splitlines()]
    assert ("take device" in text) == said.startswith("take")


@pytest.mark.parametrize("state", [s for s in DiskState if s is not DiskState.IN])
def test_a_disk_that_is_not_wanted_in_is_never_taken(state):
    for device in (BLANK, FOREIGN, OURS):
        assert "take device" not in str(disks.plan(disk(state), (device,), engine("n1")))


@pytest.mark.parametrize("name", ["ata-X1", "/dev/sda", "X1"])
def test_a_disk_is_known_by_its_id_its_path_and_its_serial(name):
    assert "take device ata-X1" in str(disks.plan(disk(device=name), (BLANK,), engine("n1")))


def test_an_empty_serial_names_no_device():
    assert not disks.is_device("", replace(BLANK, serial="", wwn=""))


def test_two_objects_for_one_device_are_one_too_many():
    plan = disks.plan(disk(), (BLANK,), engine("n1"), duplicate_of="older")
    assert "Refused: StorageDisk older is the same device." in str(plan)
    assert plan.actions == ()


def test_a_disk_in_use_is_given_up_and_its_server_may_refuse():
    plan = disks.plan(disk(DiskState.REMOVE), (OURS,), engine("n1"))
    assert [str(a) for a in plan.actions] == ["give up device ata-X1 of n1"]


def test_a_disk_that_was_given_up_is_told_so_and_taken_again_when_it_is_wanted_in():
    down = engine("n1", drives=(drive(1, "n1", "down"),))
    plan = disks.plan(disk(DiskState.REMOVE), (OURS,), down)
    assert plan.actions == ()
    assert "Removed: It is not in use" in str(plan)
    assert "take device ata-X1" in str(disks.plan(disk(), (OURS,), down))
    pending = replace(OURS, wanted="opening")
    assert disks.plan(disk(), (pending,), down).actions == ()


def test_a_disk_that_was_asked_for_and_came_to_nothing_is_taken_back():
    pending = replace(BLANK, wanted="refused", reason="drive_foreign: it has a partition table")
    plan = disks.plan(disk(DiskState.REMOVE), (pending,), engine("n1"))
    assert [str(a) for a in plan.actions] == ["give up device ata-X1 of n1"]
    assert "Removing: The disk leaves as soon as no data needs it." in str(plan)
    gone = engine("n1", drives=(drive(1, "n1", "gone"),))
    for seen, removed in ((replace(OURS, wanted="refused"), False), (OURS, True)):
        plan = disks.plan(disk(DiskState.REMOVE), (seen,), gone)
        assert ("Removed" in str(plan)) == removed
        assert bool(plan.actions) != removed


def test_a_drive_that_is_down_and_not_wanted_is_free_again():
    down = engine("n1", drives=(drive(1, "n1", "down"),))
    text = str(disks.plan(disk(DiskState.AVAILABLE), (OURS,), down))
    assert "Available: It is a drive of this cluster. Set state: In to have it opened" in text
    waits = replace(OURS, wanted="opening")
    assert "InUse: It is drive 1" in str(disks.plan(disk(DiskState.AVAILABLE), (waits,), down))


def test_a_device_that_nothing_tells_from_another_gets_no_object_and_is_not_taken():
    nameless = replace(BLANK, id="unnamed:sdq", path="/dev/sdq")
    assert disks.discovered(build(), {"n1": (nameless,)}, ()) == ()
    text = str(disks.plan(disk(device="/dev/sdq"), (nameless,), engine("n1")))
    assert "Refused: /dev/sdq has neither a serial number nor a WWN" in text
    assert "take device" not in text


@pytest.mark.parametrize("state", [DiskState.IN, DiskState.REMOVE, DiskState.AVAILABLE])
def test_a_drive_of_the_servers_own_settings_is_shown_and_left_alone(state):
    plan = disks.plan(disk(state), (replace(OURS, configured=True),), engine("n1"))
    assert plan.actions == ()
    assert "Ready=True InUse: /dev/sda is a drive of the server's own settings" in str(plan)


def test_found_devices_appear_as_available_once():
    found = {"n1": (BLANK, FOREIGN)}
    made = disks.discovered(build(), {"n1": (BLANK,)}, ())
    assert [a.body["spec"]["state"] for a in made] == ["Available"]
    assert disks.discovered(build(), found, (disk(device="X1"),)) == ()


def test_blank_disks_are_adopted_where_the_spec_says_so_and_others_never():
    adopt = build({**SQLITE, "disks": {"autoAdopt": "Blank"}})
    other = replace(FOREIGN, id="ata-X2", path="/dev/sdb", serial="X2")
    made = disks.discovered(adopt, {"n1": (BLANK, other)}, ())
    assert [a.body["spec"]["state"] for a in made] == ["In", "Available"]


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ({}, 1),
        ({"classes": ["nvme"]}, 0),
        ({"minSize": "2Ti"}, 0),
        ({"pathGlobs": ["/dev/sd*"]}, 1),
        ({"pathGlobs": ["/dev/nvme*"]}, 0),
    ],
)
def test_the_selector_picks_devices(rules, count):
    picked = build({**SQLITE, "disks": {"selector": rules}})
    assert len(disks.discovered(picked, {"n1": (BLANK,)}, ())) == count


def test_names_of_disks_tell_apart_what_kubernetes_cannot_spell():
    assert disks.object_name("n1", "ata-x1") == "n1-ata-x1"
    names = {disks.object_name("n1", d) for d in ("/var/a_b.img", "/var/a-b.img", "/VAR/a-b.img")}
    assert len(names) == 3


# Pools -----------------------------------------------------------------------------------


def pool(spec: dict[str, object], **more: bool) -> pools.StoragePoolView:
    values = {"held": True, **more}
    return pools.StoragePoolView("p", StoragePoolSpec.model_validate(spec), **values)


MADE = EnginePool(1, "p", 3, 2, "auto", 3 << 40, 0, 3 << 40, PgCounts(64, 64))
ZONES = {"n1": "z1", "n2": "z2", "n3": "z3"}
RACK = {"n1": "z1", "n2": "z1", "n3": "z1"}


@pytest.mark.parametrize(
    ("spec", "up", "fault_sets", "waits"),
    [
        ({"copies": 3}, ("n1", "n2", "n3"), ZONES, ""),
        ({"copies": 3}, ("n1", "n2"), ZONES, "3 fault sets; there are 2"),
        ({"copies": 3}, ("n1", "n2", "n3"), RACK, ""),
        ({"copies": 3}, ("n1", "n1", "n1"), RACK, "3 nodes; there are 1"),
        ({"copies": 2}, ("n1", "n1"), {"n1": ""}, ""),
        ({"copies": 2, "failureDomain": "fault-set"}, ("n1", "n2"), RACK, "2 fault sets"),
        ({"copies": 3, "failureDomain": "drive"}, ("n1", "n1", "n1"), ZONES, ""),
    ],
)
def test_a_pool_is_made_once_its_copies_can_be_apart(spec, up, fault_sets, waits):
    drives = tuple(drive(i, n) for i, n in enumerate(up))
    text = str(pools.plan(pool(spec), engine("n1", drives=drives), fault_sets))
    assert ("create pool" in text) == (waits == "")
    assert waits in text


@pytest.mark.parametrize(("counted", "said"), [({"p": 7, "q": 1}, 7), ({"q": 1}, 0), (None, None)])
def test_a_pool_says_how_many_volumes_it_has_where_they_were_counted(counted, said):
    there = engine("n1", pools=(MADE,), pool_volumes=counted)
    status = pools.plan(pool({"copies": 3}), there, {}).status
    assert status is not None
    assert status.fields.get("volumes") == said


def test_only_min_insync_of_a_pool_changes():
    there = engine("n1", pools=(MADE,))
    assert "set pool p min_insync=1" in str(
        pools.plan(pool({"copies": 3, "minInsync": 1}), there, {})
    )
    text = str(pools.plan(pool({"copies": 2}), there, {}))
    assert "NotAsWritten: The pool has 3 copies, not 2: that cannot be changed." in text
    assert "create" not in text


def test_a_pool_is_held_back_until_the_manager_deleted_it():
    there = engine("n1", pools=(MADE,))
    leaving = pool({"copies": 3}, deleting=True)
    assert str(pools.plan(leaving, there, {})) == "delete pool p\nrelease StoragePool/p"
    assert str(pools.plan(leaving, engine("n1"), {})) == "release StoragePool/p"


def test_the_default_pool_is_made_as_an_object_once():
    wanted = build({**SQLITE, "defaultPool": {"copies": 3}})
    (made,) = pools.default_pool(wanted, ())
    assert made.body["metadata"]["name"] == "default"
    assert made.body["spec"] == {"copies": 3, "failureDomain": "auto"}
    existing = replace(pool({"copies": 3}), name="default")
    assert pools.default_pool(wanted, (existing,)) == ()


# Rolling update --------------------------------------------------------------------------

TEMPLATES = {"server": "new", "beacon": "new"}


def servers(**templates: str) -> list[object]:
    return [pod(f"s-{n}", n, "server", t) for n, t in templates.items()]


def step(pods, **changes) -> str:
    values = {
        "pods": tuple(pods), "templates": TEMPLATES, "fault_sets": ZONES,
        "engine": engine("n1", "n2", "n3"), **changes,
    }  # fmt: skip
    found = rollout.plan(rollout.RolloutSeen(**values))
    return "\n".join([*(str(a) for a in found.actions), found.message])


def test_nothing_is_replaced_when_every_pod_is_of_the_wanted_version():
    assert step(servers(n1="new", n2="new")) == "every server runs the wanted version"


def test_one_node_is_replaced_with_its_beacon_and_no_other():
    pods = [*servers(n1="old", n2="old", n3="old"), pod("b-n1", "n1", "beacon", "old")]
    assert step(pods) == dedent("""\
        delete Pod/ns/s-n1
        delete Pod/ns/b-n1
        node n1 is being updated""")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"engine": engine("n1", pgs=PgCounts(64, 63, 1))}, "all placement groups are in sync (63"),
        ({"engine": engine("n1", pgs=PgCounts(64, 60, 0, 4))}, "all placement groups are in sync"),
        ({"engine": DEAF}, "a manager answers"),
        ({"nodes_away": frozenset({"n3"})}, "node n3 is back"),
        (
            {"engine": engine("n1", nodes=(MUTE,))},
            "the beacon of node n3 is connected",
        ),
    ],
)
def test_the_next_node_waits_until_everything_is_in_sync(changes, why):
    text = step(servers(n1="old", n2="new"), **changes)
    assert text.startswith("node n1 is next, when ")
    assert why in text


@pytest.mark.parametrize("template", ["old", "new"])
def test_managers_are_replaced_before_servers(template):
    manager = pod("m-0", "n1", "manager", template, ready=template == "old")
    templates = {**TEMPLATES, "manager": "new"}
    text = step([*servers(n1="old"), manager], templates=templates)
    assert text == "node n1 is next, when the managers run the wanted version"


def test_the_next_node_waits_until_the_last_one_is_ready():
    pods = [*servers(n1="old"), pod("s-n2", "n2", "server", "new", ready=False)]
    assert step(pods) == "node n1 is next, when pod s-n2 is ready again"


def test_a_beacon_that_waits_for_its_old_servers_port_holds_no_update_up():
    beacons = [pod(f"b-{n}", n, "beacon", "new", ready=False) for n in ("n1", "n2")]
    pods = [*servers(n1="old", n2="old"), *beacons]
    assert step(pods) == "delete Pod/ns/s-n1\nnode n1 is being updated"
    # The server of n1 was replaced: now its beacon is needed.
    begun = [EngineNode("n1", "server", connected=True, beacon_connected=False)]
    begun += [EngineNode("n2", "server", connected=True)]
    pods = [*servers(n1="new", n2="old"), *beacons]
    waits = step(pods, engine=engine("n1", "n2", nodes=tuple(begun)))
    assert waits == "node n2 is next, when the beacon of node n1 is connected"


def test_a_node_that_is_down_anyhow_comes_first():
    pods = [*servers(n1="old"), pod("s-n2", "n2", "server", "old", ready=False)]
    degraded = engine(
        "n1", pgs=PgCounts(64, 0, 64), drives=(drive(1, "n1"), drive(2, "n2", "down"))
    )
    assert step(pods, engine=degraded) == "delete Pod/ns/s-n2\nnode n2 is being updated"


def test_never_two_nodes_even_of_one_fault_set():
    pods = servers(n1="old", n2="old")
    assert step(pods, fault_sets=RACK).count("delete Pod") == 1


def test_a_person_may_keep_the_update_in_hand():
    text = step(servers(n1="old"), strategy=UpgradeStrategy.ON_DELETE)
    assert text == "pods are replaced when a person deletes them"
