"""Nobody may more than is written down, and the operator may exactly what it does."""

from __future__ import annotations

import os
from collections import defaultdict

from drystone_operator.apply import paths
from tests.chart.chart import GOLDEN, render, values_of

# What the framework itself reads, and the right to say that a StorageCluster owns something.
FRAMEWORK = {
    ("", "namespaces"): {"get", "list", "watch"},
    ("apiextensions.k8s.io", "customresourcedefinitions"): {"get", "list", "watch"},
}
OWNS = {("drystone.io", "storageclusters/finalizers"): {"update"}}
READ = {"get", "list", "watch"}


def granted(*roles):
    out: dict[tuple[str, str], set[str]] = defaultdict(set)
    for role in roles:
        for rule in role["rules"]:
            assert set(rule) <= {"apiGroups", "resources", "verbs", "resourceNames"}
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    out[group, resource] |= set(rule["verbs"])
    return dict(out)


def every_role(rendered):
    return [*rendered.of("ClusterRole"), *rendered.of("Role")]


def test_rights_are_those_of_the_golden_list():
    lines = []
    for role in every_role(render(values_of("cluster"))):
        for (group, resource), verbs in sorted(granted(role).items()):
            name = f"{role['kind']}/{role['metadata']['name']}"
            lines.append(f"{name}: {group or 'core'}/{resource}: {' '.join(sorted(verbs))}")
    text = "\n".join(sorted(lines)) + "\n"
    golden = GOLDEN / "rbac.txt"
    if os.environ.get("DRYSTONE_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert golden.read_text() == text, "a right was added or taken away: is that meant?"


def test_no_right_is_for_everything_and_no_secret_is_readable_across_namespaces():
    for role in every_role(render(values_of("cluster"))):
        for (group, resource), verbs in granted(role).items():
            assert "*" not in {group, resource} | verbs
            assert not verbs & {"escalate", "bind", "impersonate"}
            if role["kind"] == "ClusterRole":
                assert resource not in {"secrets", "configmaps", "*"}


def test_the_operator_may_exactly_what_it_does():
    rendered = render()
    here = granted(rendered.one("Role", "drystone-operator"))
    everywhere = granted(rendered.one("ClusterRole", "drystone-operator"))
    does = {key: set(verbs) for key, verbs in paths.verbs().items()}
    wide = {key: set(paths.CLUSTER_WIDE[key[1]]) for key in does
            if key[0] == "" and key[1] in paths.CLUSTER_WIDE}  # fmt: skip
    assert everywhere == wide | FRAMEWORK
    allowed = {key: here.get(key, set()) | everywhere.get(key, set()) for key in does}
    assert allowed == does
    assert set(here) - set(does) == set(OWNS)
    assert here["drystone.io", "storageclusters/finalizers"] == {"update"}


def test_pods_of_nodes_have_an_identity_that_may_nothing():
    rendered = render()
    bound = {
        (subject["name"])
        for one in [*rendered.of("ClusterRoleBinding"), *rendered.of("RoleBinding")]
        for subject in one["subjects"]
    }
    assert bound == {"drystone-operator", "drystone-csi-controller"}
    tokens = {
        one["metadata"]["name"]: one["automountServiceAccountToken"]
        for one in rendered.of("ServiceAccount")
    }
    assert tokens == {
        "drystone-operator": True,
        "drystone-csi-controller": True,
        "drystone-csi-node": False,
        "drystone-node": False,
    }


def test_every_binding_is_of_a_role_and_an_account_that_exist():
    for case in ("default", "cluster", "client-only", "two-namespaces"):
        rendered = render(values_of(case))
        roles = {(one["kind"], one["metadata"]["name"]) for one in every_role(rendered)}
        accounts = {
            (one["metadata"]["namespace"], one["metadata"]["name"])
            for one in rendered.of("ServiceAccount")
        }
        for one in [*rendered.of("ClusterRoleBinding"), *rendered.of("RoleBinding")]:
            assert (one["roleRef"]["kind"], one["roleRef"]["name"]) in roles
            for subject in one["subjects"]:
                assert (subject["namespace"], subject["name"]) in accounts


def test_in_other_namespaces_the_operator_may_the_same_and_no_more():
    rendered = render(values_of("two-namespaces"))
    roles = rendered.of("Role", "stone-operator")
    assert [role["metadata"]["namespace"] for role in roles] == ["storage-a", "storage-b"]
    usual = render().one("Role", "drystone-operator")["rules"]
    assert [role["rules"] for role in roles] == [usual, usual]


def test_the_setup_job_may_apply_a_cluster_and_nothing_else():
    role = render(values_of("cluster")).one("Role", "drystone-setup")
    assert granted(role) == {("drystone.io", "storageclusters"): {"create", "patch"}}


def test_the_csi_controller_changes_only_what_volumes_are():
    role = render().one("ClusterRole", "drystone-csi-controller")
    changes = {key[1] for key, verbs in granted(role).items() if verbs - READ}
    assert changes == {
        "persistentvolumes",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "volumeattachments",
        "volumeattachments/status",
        "events",
    }
