"""StorageCluster: what is planned, as text."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest

from drystone_operator.handlers import parse
from drystone_operator.plan import cluster, cluster_status, deletion
from drystone_operator.plan.actions import Apply, Create, WriteStatus
from drystone_operator.plan.local_volumes import to_readopt
from drystone_operator.plan.views import (
    OTHER_CLUSTER,
    EngineNode,
    PgCounts,
    Unanswered,
    Workload,
)
from drystone_operator.resources.children import children, key
from tests.operator.wanted import ETCD, EXTERNAL, NODES, build, engine, node, pod

DEAF = Unanswered("unavailable", "The manager at c-manager-0 cannot be reached.")
SECRETS = {
    "c-master": frozenset({"master.key"}),
    "c-tokens": frozenset({"tokens", "admin"}),
}
WORKLOADS = tuple(
    Workload(kind, f"c-{component}", component, 3, 3, "t")
    for kind, component in (
        ("StatefulSet", "manager"),
        ("DaemonSet", "server"),
        ("Deployment", "csi-controller"),
    )
)


def lines(plan: object, *words: str) -> list[str]:
    """The lines of a plan that begin with one of these words."""
    return [line for line in str(plan).splitlines() if line.split(" ")[0] in words]


def wanted(spec: Any = None, **more: Any) -> cluster.ClusterWanted:
    return cluster.ClusterWanted(build(spec), **more)


def test_a_new_cluster_on_etcd_is_made_from_nothing():
    plan = cluster.plan(wanted(ETCD), cluster.ClusterSeen(nodes=NODES, engine=DEAF))
    assert str(plan) == dedent("""\
        hold StorageCluster/c
        create Secret/c-master (master)
        create Secret/c-tokens (tokens)
        create PersistentVolume/ns-c-etcd-0
        create PersistentVolume/ns-c-etcd-1
        create PersistentVolume/ns-c-etcd-2
        apply ConfigMap/c-settings
        apply ConfigMap/c-nodes
        apply ConfigMap/c-etcd
        apply Service/c-etcd
        apply StatefulSet/c-etcd
        apply PodDisruptionBudget/c-etcd
        apply Service/c-managers
        apply Service/c-manager
        apply StatefulSet/c-manager
        apply PodDisruptionBudget/c-manager
        apply DaemonSet/c-beacon
        apply DaemonSet/c-server
        apply DaemonSet/c-fuse
        apply DaemonSet/c-block
        apply DaemonSet/c-csi-node
        apply Deployment/c-csi-controller
        apply PodDisruptionBudget/c-csi-controller
        status StorageCluster/c
            Ready=False Creating: The cluster's objects are being made.
            Progressing=True Creating: The cluster's objects are being made.
            Degraded=Unknown ManagerUnreachable: No manager answers.
            Secured=False ClearText: Tokens travel in clear text between pods: confine them with a NetworkPolicy. The managed etcd speaks clear text and knows no login: only a NetworkPolicy guards it.
            components: []
            endpoint: http://c-manager-0.c-managers.ns.svc:8460""")  # noqa: E501 - as it is said


def test_an_external_cluster_gets_only_what_uses_volumes():
    seen = cluster.ClusterSeen(
        secrets={"their-tokens": frozenset({"admin"}), "their-ca": frozenset({"ca.crt"})},
        nodes=NODES[:1],
        engine=engine(),
    )
    plan = cluster.plan(wanted(EXTERNAL, finalizers=("drystone.io/operator",)), seen)
    assert str(plan).partition("status")[0] == dedent("""\
        apply ConfigMap/c-settings
        apply DaemonSet/c-fuse
        apply DaemonSet/c-block
        apply DaemonSet/c-csi-node
        apply Deployment/c-csi-controller
        apply PodDisruptionBudget/c-csi-controller
        join token for client block-n1 into Secret/c-join-block block.n1
        """)


def test_a_secret_that_the_spec_names_is_waited_for():
    plan = cluster.plan(wanted(EXTERNAL), cluster.ClusterSeen())
    assert lines(plan, "apply", "create") == []
    assert "SecretMissing: Secret their-tokens that the spec names is not there." in str(plan)


def test_a_lost_master_key_stops_everything_but_the_word_about_it():
    seen = cluster.ClusterSeen(secrets={"c-tokens": frozenset()}, nodes=NODES, engine=engine())
    plan = cluster.plan(wanted(known_uuid="u-1"), seen)
    assert lines(plan, "apply", "create") == []
    assert "MasterKeyLost: Secret c-master is gone although cluster u-1 exists." in str(plan)


def test_no_key_is_made_beside_volumes_that_hold_metadata_already():
    seen = cluster.ClusterSeen(nodes=NODES, local_volumes={"ns-c-etcd-0": "n1"}, engine=DEAF)
    plan = cluster.plan(wanted(ETCD), seen)
    assert lines(plan, "apply", "create") == []
    assert "MasterKeyLost: Secret c-master is not there, but PersistentVolume ns-c-etcd-0" in str(
        plan
    )


def test_the_clear_text_of_the_managed_etcd_is_said_beside_tls():
    def secured(spec: Any) -> str:
        return str(cluster_status.secured(build(spec, tls=True)))

    assert secured(ETCD) == (
        "Secured=True Tls: REST and the control channel speak TLS. The managed etcd speaks clear "
        "text and knows no login: only a NetworkPolicy guards it."
    )
    yours = {"endpoints": ["https://a:2379"], "tlsSecretRef": {"name": "t"}}
    theirs = {"metadata": {"type": "etcd", "etcd": yours}}
    assert secured(theirs) == "Secured=True Tls: REST and the control channel speak TLS."


OTHER = Unanswered(OTHER_CLUSTER, "The managers answer as cluster v.")


def test_managers_of_another_cluster_are_said_and_nothing_is_done():
    seen = cluster.ClusterSeen(secrets=SECRETS, nodes=NODES, workloads=WORKLOADS, engine=OTHER)
    (only,) = cluster.plan(wanted(known_uuid="u"), seen).actions
    assert isinstance(only, WriteStatus)
    assert "Ready=False OtherCluster: The managers answer as cluster v." in str(only)
    assert only.fields["clusterUUID"] == "u"


def test_an_id_that_is_known_is_never_written_over():
    seen = cluster.ClusterSeen(secrets=SECRETS, nodes=NODES, engine=engine(uuid="v"))
    assert cluster.fields(wanted(known_uuid="u"), seen)["clusterUUID"] == "u"
    assert cluster.fields(wanted(), seen)["clusterUUID"] == "v"


def test_managers_of_another_cluster_grant_no_deletion():
    seen = deletion.DeletionSeen(volumes=(), engine=OTHER, nodes=(), ever_ran=True, held=True)
    refusal = deletion.refusal(build(), seen)
    assert refusal is not None
    assert refusal.reason == "OtherCluster"


def test_a_node_gets_its_tokens_first_and_its_labels_in_a_later_look():
    everywhere = {n.name: "" for n in NODES[:1]}
    seen = cluster.ClusterSeen(
        secrets=SECRETS, nodes=NODES[:1], storage_nodes=everywhere, engine=engine()
    )
    assert lines(cluster.plan(wanted(), seen), "join", "label") == [
        "join token for server n1 into Secret/c-join server.n1",
        "join token for beacon n1 into Secret/c-join beacon.n1",
        "join token for client block-n1 into Secret/c-join-block block.n1",
    ]
    later = cluster.ClusterSeen(
        secrets={
            **SECRETS,
            "c-join": frozenset({"server.n1", "beacon.n1"}),
            "c-join-block": frozenset({"block.n1"}),
        },
        nodes=NODES[:1],
        storage_nodes=everywhere,
        engine=engine(),
    )
    assert set(lines(cluster.plan(wanted(), later), "join", "label")) == {
        "label Node/n1 drystone.io/server=ns.c",
        "label Node/n1 drystone.io/block=ns.c",
    }


def test_nothing_is_admitted_while_no_manager_answers():
    seen = cluster.ClusterSeen(secrets=SECRETS, nodes=NODES, engine=DEAF)
    assert lines(cluster.plan(wanted(), seen), "join", "label") == []


def test_a_beacons_token_stays_until_its_beacon_is_ready():
    keys = {**SECRETS, "c-join": frozenset({"server.n1", "beacon.n1"})}
    seen = cluster.ClusterSeen(secrets=keys, engine=engine("n1"))
    assert lines(cluster.plan(wanted(), seen), "drop") == [
        "drop used tokens server.n1 from Secret/c-join"
    ]
    there = cluster.ClusterSeen(
        secrets=keys, engine=engine("n1"), pods=(pod("b", "n1", "beacon", "t"),)
    )
    assert lines(cluster.plan(wanted(), there), "drop") == [
        "drop used tokens beacon.n1, server.n1 from Secret/c-join"
    ]


def test_a_beacon_gets_a_token_also_when_its_server_registered_long_before():
    server = EngineNode("n1", "server", connected=True)
    seen = cluster.ClusterSeen(
        secrets=SECRETS,
        nodes=(
            node("n1", ready=True, **{"drystone.io/server": "ns.c", "drystone.io/block": "ns.c"}),
        ),
        storage_nodes={"n1": ""},
        engine=engine("n1", nodes=(server, EngineNode("block-n1", "client", connected=True))),
    )
    assert lines(cluster.plan(wanted(), seen), "join", "label") == [
        "join token for beacon n1 into Secret/c-join beacon.n1"
    ]
    away = replace(server, beacon_registered=True, beacon_connected=False)
    known = (away, EngineNode("block-n1", "client", connected=True))
    registered = replace(seen, engine=engine("n1", nodes=known))
    assert lines(cluster.plan(wanted(), registered), "join", "label") == []


def test_the_topology_label_of_a_cluster_that_was_here_before_is_taken_away():
    uuid = engine().uuid
    labels = {"drystone.io/block": "ns.c", "topology.drystone.io/cluster": "of-another"}
    nodes = (
        node("n1", ready=True, **labels),
        node("n2", ready=True, **{**labels, "topology.drystone.io/cluster": uuid}),
        node("n3", ready=True, **{**labels, "drystone.io/block": "ns.d"}),
    )
    seen = cluster.ClusterSeen(secrets=SECRETS, nodes=nodes, engine=engine())
    assert lines(cluster.plan(wanted(), seen), "label", "topology") == [
        "label Node/n1 topology.drystone.io/cluster-"
    ]


def test_a_node_with_too_long_a_name_is_not_admitted():
    seen = cluster.ClusterSeen(secrets=SECRETS, nodes=(node("n" * 58),), engine=engine())
    assert lines(cluster.plan(wanted(), seen), "join", "label") == []


def test_a_volume_that_exists_is_not_made_again_and_its_node_is_not_taken_twice():
    there = {"ns-c-etcd-0": "n2"}
    seen = cluster.ClusterSeen(
        secrets=SECRETS, nodes=NODES, local_volumes=there, engine=engine("n1")
    )
    plan = cluster.plan(wanted(ETCD), seen)
    made = [a.body for a in plan.actions if isinstance(a, Create)]
    nodes = [
        b["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0][
            "values"
        ]
        for b in made
    ]
    assert [b["metadata"]["name"] for b in made] == ["ns-c-etcd-1", "ns-c-etcd-2"]
    assert nodes == [["n1"], ["n3"]]


def test_a_kept_volume_whose_claim_was_deleted_is_given_to_the_new_one():
    seen = cluster.ClusterSeen(
        secrets=SECRETS, nodes=NODES, local_volumes={"ns-c-etcd-0": "n2"},
        released_volumes=("ns-c-etcd-0",), engine=engine("n1"),
    )  # fmt: skip
    assert "readopt PersistentVolume/ns-c-etcd-0" in str(cluster.plan(wanted(ETCD), seen))


@pytest.mark.parametrize(
    ("phase", "claim", "path", "is_ours"),
    [
        ("Released", {"uid": "1", "namespace": "ns"}, "/var/lib/drystone/c/etcd-0", True),
        ("Bound", {"uid": "1", "namespace": "ns"}, "/var/lib/drystone/c/etcd-0", False),
        ("Released", {"namespace": "ns"}, "/var/lib/drystone/c/etcd-0", False),
        ("Released", {"uid": "1", "namespace": "other"}, "/var/lib/drystone/c/etcd-0", False),
        ("Released", {"uid": "1", "namespace": "ns"}, "/etc", False),
    ],
)
def test_only_a_released_folder_of_this_cluster_is_given_to_a_new_claim(
    phase, claim, path, is_ours
):
    body = {
        "spec": {"claimRef": claim, "hostPath": {"path": path}},
        "status": {"phase": phase},
    }
    assert to_readopt(build(), body) is is_ours


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Ready=True Serving: Volumes can be made, used and moved."),
        ({"workloads": ()}, "Ready=False Creating: The cluster's objects are being made."),
        (
            {"workloads": (Workload("StatefulSet", "c-manager", "manager", 3, 0),)},
            (
                "Ready=False Starting: No pod of StatefulSet c-manager is ready yet; "
                "if that lasts, `kubectl describe` its pods."
            ),
        ),
        (
            {"engine": DEAF},
            (
                "Ready=False ManagerUnreachable: No manager answers: The manager at c-manager-0 "
                "cannot be reached. Volumes in use go on."
            ),
        ),
        (
            {
                "engine": engine(
                    "n1", pgs=PgCounts(64, 63, 1, unavailable=1), issues=("pg 3 is lost", "more")
                )
            },
            (
                "Ready=False DataUnavailable: 1 placement group has no copy in reach: "
                "pg 3 is lost (and 1 more)."
            ),
        ),
        (
            {"engine": engine()},
            (
                "Ready=False NoDisks: No disk is in use yet. Set state: In on a StorageDisk "
                "that is Available."
            ),
        ),
        (
            {"engine": engine("n1", health="warning", issues=("node n2 is down",))},
            "Degraded=True Warning: node n2 is down.",
        ),
        (
            {"pods": (pod("s", "n1", "server", "old"),), "rollout": "node n1 is next"},
            (
                "Progressing=True Updating: Pods of an older version: 1 of server. "
                "Servers: node n1 is next."
            ),
        ),
    ],
)
def test_what_is_said_of_a_cluster(changes, said):
    seen = {"secrets": SECRETS, "workloads": WORKLOADS, "engine": engine("n1"), **changes}
    text = str(cluster.status(wanted(), cluster.ClusterSeen(**seen)))
    assert said in [line.strip() for line in text.splitlines()]


def seen_at_deletion(**changes: object) -> deletion.DeletionSeen:
    values = {
        "volumes": (), "engine": engine("n1"), "nodes": (), "ever_ran": True, "held": True,
    } | changes  # fmt: skip
    return deletion.DeletionSeen(**values)  # type: ignore[arg-type]


def test_deletion_is_refused_while_there_are_volumes():
    names = tuple(f"v{n}" for n in range(7))
    refusal = deletion.refusal(build(), seen_at_deletion(volumes=names))
    assert str(refusal) == (
        "Ready=False DeletionRefused: It still has volumes: v0, v1, v2, v3, v4 and others. "
        "Delete them first; until then everything runs on."
    )


def test_deletion_is_refused_while_nobody_can_say_what_volumes_there_are():
    refusal = deletion.refusal(build(), seen_at_deletion(volumes=None, engine=DEAF))
    assert refusal is not None
    assert "no manager can say" in refusal.message


def test_a_cluster_that_never_ran_is_deleted_at_once():
    seen = seen_at_deletion(volumes=None, engine=DEAF, ever_ran=False)
    assert deletion.refusal(build(), seen) is None
    assert str(deletion.plan(build(), seen)) == "release StorageCluster/c"


def test_with_the_cluster_its_pools_are_let_go_too_so_that_no_namespace_waits_for_them():
    seen = seen_at_deletion(nodes=(), pools_held=("q", "default"))
    assert str(deletion.plan(build(), seen)) == dedent("""\
        release StoragePool/default
        release StoragePool/q
        release StorageCluster/c""")


def test_wiping_waits_until_the_disks_were_removed():
    wipe = build({"metadata": {"type": "sqlite"}, "deletionPolicy": "Wipe"})
    refusal = deletion.refusal(wipe, seen_at_deletion())
    assert refusal is not None
    assert refusal.reason == "Wiping"
    assert deletion.refusal(wipe, seen_at_deletion(engine=engine())) is None


def test_deletion_takes_only_our_labels_of_this_cluster_away():
    mine = node("n1", ready=True, **{"drystone.io/server": "ns.c", "drystone.io/block": "ns.c"})
    theirs = node("n2", ready=True, **{"drystone.io/server": "ns.d"})
    plan = deletion.plan(build(), seen_at_deletion(nodes=(theirs, mine)))
    assert str(plan) == dedent("""\
        label Node/n1 drystone.io/server-
        label Node/n1 drystone.io/block-
        release StorageCluster/c""")


THEIR_ETCD = {
    "metadata": {
        "type": "etcd",
        "etcd": {"endpoints": ["https://e1:2379"], "tlsSecretRef": {"name": "etcd-tls"}},
    }
}


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"ca.crt"}, {"etcd_ca_file"}),
        ({"ca.crt", "tls.crt"}, {"etcd_ca_file"}),
        ({"ca.crt", "tls.crt", "tls.key"}, {"etcd_ca_file", "etcd_cert_file", "etcd_key_file"}),
    ],
)
def test_managers_show_your_etcd_a_certificate_only_where_there_is_one(keys, named):
    seen = cluster.ClusterSeen(secrets={**SECRETS, "etcd-tls": frozenset(keys)})
    made = [a.body for a in cluster.plan(wanted(THEIR_ETCD), seen).actions if isinstance(a, Apply)]
    (text,) = [b["data"]["manager.toml"] for b in made if b["metadata"]["name"] == "c-settings"]
    assert {k for k in tomllib.loads(text) if k.endswith("_file") and "etcd" in k} == named


def test_an_etcd_that_nothing_verifies_is_waited_with():
    seen = cluster.ClusterSeen(secrets={**SECRETS, "etcd-tls": frozenset({"tls.crt"})})
    plan = cluster.plan(wanted(THEIR_ETCD), seen)
    assert lines(plan, "apply", "create") == []
    assert "SecretMissing: Secret etcd-tls has no ca.crt" in str(plan)


def test_an_etcd_is_founded_once_and_members_without_data_join_it_afterwards():
    def objects(*, established: bool) -> dict[str, Any]:
        made = children(replace(build(ETCD), established=established), {})
        return {key(body): body for body in made}

    before, after = objects(established=False), objects(established=True)
    assert before["ConfigMap/c-etcd"]["data"] == {"initial-cluster-state": "new"}
    assert after["ConfigMap/c-etcd"]["data"] == {"initial-cluster-state": "existing"}
    # The turn restarts no member.
    assert [name for name in before if before[name] != after[name]] == ["ConfigMap/c-etcd"]
    (container,) = before["StatefulSet/c-etcd"]["spec"]["template"]["spec"]["containers"]
    state = {e["name"]: e for e in container["env"]}["ETCD_INITIAL_CLUSTER_STATE"]
    reference = {"name": "c-etcd", "key": "initial-cluster-state"}
    assert state["valueFrom"] == {"configMapKeyRef": reference}
    # An argument would win over it.
    assert not any("initial-cluster-state" in argument for argument in container["args"])


def test_a_cluster_whose_status_has_an_id_is_established():
    body = {"metadata": {"name": "c", "namespace": "ns"}, "spec": ETCD}
    platform = build().platform
    assert parse.cluster(body, platform).established is False
    assert parse.cluster({**body, "status": {"clusterUUID": "u"}}, platform).established is True
