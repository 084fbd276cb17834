"""What is applied: valid for Kubernetes, and right in what safety hangs on."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest

from drystone_operator import names
from drystone_operator.plan.local_volumes import local_volumes
from drystone_operator.plan.views import Taint
from drystone_operator.resources import config, daemons, guards, manager
from drystone_operator.resources.base import digest, image_version, split_image
from drystone_operator.resources.children import children, key
from tests.operator.wanted import ETCD, EXTERNAL, IMAGES, NODES, SQLITE, build

KUBERNETES = ("1.31", "1.34")
SPECS: dict[str, Any] = {
    "sqlite": SQLITE,
    "etcd": ETCD,
    "external": EXTERNAL,
    "their-etcd": {
        "metadata": {
            "type": "etcd",
            "etcd": {
                "endpoints": ["https://e1:2379"],
                "tlsSecretRef": {"name": "etcd-tls"},
                "passwordSecretRef": {"name": "etcd-password"},
            },
        },
        "disks": {"folders": ["/srv/disks"]},
        "placement": {
            "nodeSelector": {"storage": "yes"},
            "tolerations": [{"key": "storage", "operator": "Exists"}],
            "priorityClassName": "high",
            "resources": {"server": {"requests": {"memory": "4Gi"}, "limits": {"memory": "8Gi"}}},
        },
        "image": {"tag": "2.0", "pullSecrets": [{"name": "registry"}]},
    },
}


def objects(spec: str) -> list[dict[str, Any]]:
    wanted = build(SPECS[spec], fuse_pods=True, tls=spec == "etcd")
    made = list(children(wanted, {"n1": "rack1", "n2": ""}))
    guarding = [guards.pod(wanted, "n1"), guards.budget(wanted, 3)]
    return made + guarding + local_volumes(wanted, NODES, {})


def pods(spec: str) -> dict[str, dict[str, Any]]:
    found = [o for o in objects(spec) if "template" in o.get("spec", {})]
    return {key(o): o["spec"]["template"]["spec"] for o in found}


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container["env"]}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_is_valid_for_kubernetes(spec, version):
    for found in objects(spec):
        kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("spec", SPECS)
def test_building_twice_gives_the_same(spec):
    assert json.dumps(objects(spec)) == json.dumps(objects(spec))


@pytest.mark.parametrize("spec", SPECS)
def test_everything_but_what_holds_data_is_owned_by_the_cluster(spec):
    for found in objects(spec):
        owners = [o["name"] for o in found["metadata"].get("ownerReferences", [])]
        assert owners == ([] if found["kind"] == "PersistentVolume" else ["c"]), key(found)
        for claim in found.get("spec", {}).get("volumeClaimTemplates", []):
            assert "ownerReferences" not in claim["metadata"]


@pytest.mark.parametrize("spec", SPECS)
def test_every_settings_file_is_toml(spec):
    for found in objects(spec):
        for name, text in found.get("data", {}).items():
            if name != "initial-cluster-state":
                tomllib.loads(text)


@pytest.mark.parametrize("spec", SPECS)
def test_no_pod_gets_variables_of_services_or_a_token_it_does_not_need(spec):
    for name, pod in pods(spec).items():
        assert pod["enableServiceLinks"] is False, name
        if "csi" not in name:
            assert pod["automountServiceAccountToken"] is False, name


@pytest.mark.parametrize("spec", SPECS)
def test_every_volume_of_a_container_is_one_of_its_pod(spec):
    for name, pod in pods(spec).items():
        volumes = {v["name"] for v in pod.get("volumes", [])} | {"state"}
        for container in pod["containers"]:
            mounts = {m["name"] for m in container.get("volumeMounts", [])}
            assert mounts <= volumes, (name, container["name"])


@pytest.mark.parametrize("component", ["server", "beacon", "block", "fuse"])
def test_the_data_path_is_replaced_only_by_hand_and_runs_on_the_nodes_network(component):
    wanted = build(SQLITE)
    found = getattr(daemons, component)(wanted)
    assert found["spec"]["updateStrategy"] == {"type": "OnDelete"}
    pod = found["spec"]["template"]["spec"]
    assert pod["hostNetwork"] is True
    assert pod["tolerations"] == [{"operator": "Exists"}]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("DaemonSet/c-fuse", "$(HOST_IP):8494"),
        ("DaemonSet/c-csi-node", "0.0.0.0:8490"),
        ("Deployment/c-csi-controller", "0.0.0.0:8490"),
    ],
)
def test_fuse_and_csi_serve_metrics_where_their_pods_say(name, address):
    container = pods("sqlite")[name]["containers"][0]
    assert variables(container)["DRYSTONE_METRICS_LISTEN"] == address
    port = {"name": "metrics", "containerPort": int(address.rpartition(":")[2])}
    assert port in container["ports"]


@pytest.mark.parametrize("spec", SPECS)
def test_no_two_processes_on_the_nodes_network_want_the_same_port(spec):
    ports = [
        port["containerPort"]
        for pod in pods(spec).values()
        if pod.get("hostNetwork")
        for container in pod["containers"]
        for port in container.get("ports", ())
    ]
    assert len(set(ports)) == len(ports)


def test_a_consuming_node_never_sees_the_tokens_of_servers():
    volumes = {v["name"]: v for v in pods("sqlite")["DaemonSet/c-block"]["volumes"]}
    assert volumes["join"]["secret"]["secretName"] == "c-join-block"
    assert "master" not in volumes
    server = {v["name"]: v for v in pods("sqlite")["DaemonSet/c-server"]["volumes"]}
    assert server["join"]["secret"]["secretName"] == "c-join"


@pytest.mark.parametrize("name", ["DaemonSet/c-csi-node", "Deployment/c-csi-controller"])
def test_the_csi_pods_get_the_token_for_volumes_and_not_the_admins(name):
    volumes = {v["name"]: v for v in pods("sqlite")[name]["volumes"]}
    assert volumes["tokens"]["secret"]["items"] == [{"key": "operate", "path": "operate"}]


def test_server_and_beacon_share_one_folder_for_the_lease_page():
    wanted = build(SQLITE)
    assert config.server(wanted)["run_dir"] == config.beacon(wanted)["run_dir"]
    for name in ("DaemonSet/c-server", "DaemonSet/c-beacon"):
        pod = pods("sqlite")[name]
        assert {"path": "/run/drystone/c", "type": "DirectoryOrCreate"} in [
            v.get("hostPath") for v in pod["volumes"]
        ]
        assert pod["containers"][0]["securityContext"].get("runAsUser", 0) == 0


def test_processes_are_named_after_their_node():
    wanted = {
        name: variables(pod["containers"][0])
        for name, pod in pods("sqlite").items()
        if name.startswith("DaemonSet")
    }
    assert wanted["DaemonSet/c-server"]["DRYSTONE_NAME"] == "$(NODE_NAME)"
    assert wanted["DaemonSet/c-beacon"]["DRYSTONE_NAME"] == "$(NODE_NAME)"
    assert wanted["DaemonSet/c-block"]["DRYSTONE_NAME"] == "block-$(NODE_NAME)"
    assert wanted["DaemonSet/c-server"]["DRYSTONE_DRIVE_LISTEN"] == "$(HOST_IP):8470"


def test_a_servers_settings_have_the_fault_set_of_its_node():
    data = config.nodes_map(build(), {"n1": "rack1", "n2": ""})["data"]
    assert tomllib.loads(data["n1.toml"])["fault_set"] == "rack1"
    assert "fault_set" not in tomllib.loads(data["n2.toml"])


def test_a_new_node_is_no_new_version_of_the_servers():
    one = [o for o in children(build(), {"n1": "r"}) if key(o) == "DaemonSet/c-server"]
    two = [o for o in children(build(), {"n1": "r", "n2": "r"}) if key(o) == "DaemonSet/c-server"]
    assert one == two


def test_another_setting_or_image_is_a_new_version():
    def template(**spec: Any) -> str:
        found = daemons.server(build({**SQLITE, **spec}))
        return found["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_TEMPLATE]

    versions = {template(), template(image={"tag": "9"}), template(disks={"folders": ["/srv"]})}
    assert len(versions) == 3


def test_the_managers_of_one_cluster_are_named_each_for_itself():
    wanted = build(ETCD)
    assert wanted.rest_urls == tuple(
        f"http://c-manager-{n}.c-managers.ns.svc:8460" for n in range(3)
    )
    settings = config.manager(wanted)
    assert settings["etcd_namespace"] == "/drystone/ns/c"
    assert config.etcd_endpoints(wanted)[2] == "c-etcd-2.c-etcd.ns.svc:2379"


def test_every_client_is_given_every_manager_and_no_balanced_address():
    wanted = build(ETCD)
    control = [f"c-manager-{n}.c-managers.ns.svc:8461" for n in range(3)]
    rest = [f"http://c-manager-{n}.c-managers.ns.svc:8460" for n in range(3)]
    files = config.settings_files(wanted)
    for name in ("server.toml", "beacon.toml", "block.toml"):
        assert tomllib.loads(files[name])["managers"] == control, name
    assert tomllib.loads(files["csi.toml"])["rest_urls"] == rest
    nodes = config.nodes_map(wanted, {"n1": "rack"})["data"]
    assert tomllib.loads(nodes["n1.toml"])["managers"] == control
    assert manager.headless(wanted)["spec"]["clusterIP"] == "None"
    assert manager.stateful_set(wanted)["spec"]["serviceName"] == "c-managers"


def test_a_standby_is_ready():
    pod = manager.stateful_set(build(ETCD))["spec"]["template"]["spec"]
    # What every process answers once it listens: nothing that asks who leads.
    assert pod["containers"][0]["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": 8490}


def test_servers_see_the_identity_of_their_machine_and_cannot_write_it():
    pod = daemons.server(build())["spec"]["template"]["spec"]
    (seen,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "machine-id"]
    assert seen == {"name": "machine-id", "mountPath": "/etc/machine-id", "readOnly": True}


def test_a_guard_is_pinned_to_its_node_and_may_nothing():
    body = guards.pod(build(), "n1")
    pod = body["spec"]
    assert body["metadata"]["name"] == "c-guard-n1"
    term = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (rule,) = term["nodeSelectorTerms"][0]["matchFields"]
    assert rule == {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "volumes" not in pod


def test_tls_takes_the_place_of_the_word_insecure():
    assert config.manager(build(SQLITE))["insecure_listen"] is True
    secure = config.manager(build(SQLITE, tls=True))
    assert "insecure_listen" not in secure
    assert secure["tls_cert_file"] == "/etc/drystone/tls/tls.crt"
    assert build(SQLITE, tls=True).rest_urls[0].startswith("https://")


def test_sqlite_on_a_folder_of_a_node_runs_as_the_folders_owner_and_else_as_nobody():
    folder = manager.stateful_set(build(SQLITE))["spec"]["template"]["spec"]
    assert folder["securityContext"]["runAsUser"] == 0
    claimed = build({**SQLITE, "managers": {"replicas": 1, "storageClassName": "fast"}})
    spec = manager.stateful_set(claimed)["spec"]
    assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert spec["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    assert local_volumes(claimed, NODES, {}) == []


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("drystone", ("drystone", ":latest")),
        ("drystone:1", ("drystone", ":1")),
        ("host:5000/drystone", ("host:5000/drystone", ":latest")),
        ("host:5000/drystone:1", ("host:5000/drystone", ":1")),
        ("host:5000/drystone@sha256:ab", ("host:5000/drystone", "@sha256:ab")),
        ("host:5000/drystone:1@sha256:ab", ("host:5000/drystone", ":1@sha256:ab")),
    ],
)
def test_an_image_is_split_at_its_tag_or_digest_and_not_at_a_port(image, parts):
    assert split_image(image) == parts


@pytest.mark.parametrize(
    ("asked", "image", "version"),
    [
        ({}, "host:5000/drystone:1@sha256:ab", "1"),
        ({"tag": "2"}, "host:5000/drystone:2", "2"),
        ({"repository": "mirror/drystone"}, "mirror/drystone:1@sha256:ab", "1"),
        ({"repository": "mirror/drystone", "tag": "2"}, "mirror/drystone:2", "2"),
    ],
)
def test_another_tag_takes_the_place_of_the_operators_digest(asked, image, version):
    images = replace(IMAGES, drystone="host:5000/drystone:1@sha256:ab")
    found = build({**SQLITE, "image": asked})
    found = replace(found, platform=replace(found.platform, images=images))
    assert found.image == image
    assert image_version(found.image) == version
    assert image_version("host:5000/drystone@sha256:ab") == "sha256:ab"


def test_managers_and_etcd_are_not_the_first_that_a_full_node_evicts():
    for name in ("StatefulSet/c-manager", "StatefulSet/c-etcd"):
        assert pods("etcd")[name]["priorityClassName"] == "system-cluster-critical"
    assert pods("their-etcd")["StatefulSet/c-manager"]["priorityClassName"] == "high"


CONTROL_PLANE = Taint("node-role.kubernetes.io/control-plane", "", "NoSchedule")


@pytest.mark.parametrize(
    ("tolerations", "taint", "fits"),
    [
        ([], CONTROL_PLANE, False),
        ([{"key": CONTROL_PLANE.key, "operator": "Exists"}], CONTROL_PLANE, True),
        ([{"key": CONTROL_PLANE.key, "effect": "NoSchedule"}], CONTROL_PLANE, True),
        ([{"key": CONTROL_PLANE.key, "effect": "NoExecute"}], CONTROL_PLANE, False),
        ([{"key": CONTROL_PLANE.key, "value": "x"}], CONTROL_PLANE, False),
        ([{"operator": "Exists"}], CONTROL_PLANE, True),
        ([{"key": "other", "operator": "Exists"}], CONTROL_PLANE, False),
        ([{"key": "for", "value": "disks"}], Taint("for", "disks", "NoExecute"), True),
        (
            [{"key": "for", "value": "disks", "effect": "NoExecute", "tolerationSeconds": 60}],
            Taint("for", "disks", "NoExecute"),
            False,
        ),
        ([], Taint("slow", "", "PreferNoSchedule"), True),
    ],
)
def test_metadata_is_never_pinned_to_a_node_that_its_pod_cannot_run_on(tolerations, taint, fits):
    wanted = build({**ETCD, "placement": {"tolerations": tolerations}})
    nodes = (replace(NODES[0], taints=(taint,)), *NODES[1:])
    made = local_volumes(wanted, nodes, {})
    assert len(made) == (3 if fits else 2)
    assert ("'n1'" in str(made)) == fits


def test_a_digest_depends_on_content_and_not_on_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_beacons_may_run_inside_the_servers_instead():
    inside = build(SQLITE, beacon_pods=False)
    assert "run_dir" not in config.server(inside)
    made = {key(o): o for o in children(inside, {})}
    assert "DaemonSet/c-beacon" not in made
    container = made["DaemonSet/c-server"]["spec"]["template"]["spec"]["containers"][0]
    assert variables(container)["DRYSTONE_BEACON_LISTEN"] == "$(HOST_IP):8480"


@pytest.mark.parametrize("spec", SPECS)
def test_who_a_container_is_never_depends_on_the_image(spec):
    for name, pod in pods(spec).items():
        for container in pod["containers"]:
            context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
            assert "runAsUser" in context, (name, container["name"])
            assert context["runAsUser"] != 0 or not context.get("runAsNonRoot")


def test_only_what_needs_the_nodes_devices_or_mounts_is_privileged():
    privileged = {
        (name, container["name"])
        for name, pod in pods("sqlite").items()
        for container in pod["containers"]
        if container.get("securityContext", {}).get("privileged")
    }
    assert privileged == {
        ("DaemonSet/c-block", "block"),
        ("DaemonSet/c-csi-node", "csi"),
        ("DaemonSet/c-fuse", "fuse"),
        ("DaemonSet/c-server", "server"),
    }
