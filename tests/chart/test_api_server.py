"""The chart installed by Helm's library into a real API server (without controllers and nodes)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.chart.chart import CHART, library, values_of
from tests.crds.api_server import running

pytestmark = pytest.mark.timeout(300)

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
CLUSTERS = "/apis/drystone.io/v1alpha1/namespaces/drystone/storageclusters"
DEFAULT = "storageclass.kubernetes.io/is-default-class"
INSTALL_S = 120


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    helm = library()
    with running(tmp_path_factory.mktemp("api")) as api:
        for name in ("kube-system", "drystone", "storage-a", "storage-b"):
            api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        config = helm.Config(
            kube_apiserver=api.url,
            kube_token=api.token,
            kube_insecure_skip_tls_verify=True,
            namespace="drystone",
        )
        with config:
            yield SimpleNamespace(api=api, config=config, helm=helm)


@pytest.fixture
def release(world):
    """Installs, and takes everything away again, also what an uninstall keeps."""

    def install(values=None):
        world.config.install(CHART, "drystone", values or {}, timeout=INSTALL_S)

    yield install
    world.config.uninstall("drystone", ignore_not_found=True, timeout=INSTALL_S)
    world.api.call("DELETE", DEFINITIONS)
    world.api.call("DELETE", CLASSES)


def names(world, path):
    return {one["metadata"]["name"] for one in world.api.call("GET", path).json()["items"]}


def storage_class(name, *, default):
    marks = {DEFAULT: "true"} if default else {}
    return {"metadata": {"name": name, "annotations": marks}, "provisioner": "other.example"}


def marked(world):
    found = world.api.call("GET", f"{CLASSES}/drystone").json()
    return found["metadata"].get("annotations", {}).get(DEFAULT) == "true"


def test_everything_is_taken_and_an_upgrade_changes_nothing(world, release):
    values = values_of("cluster")
    # Their definitions are not here, and nobody would run the Job.
    left_out = {"podMonitors": {"create": False}, "serviceMonitor": {"create": False},
                "rules": {"create": False}}  # fmt: skip
    values["monitoring"] = {**values["monitoring"], **left_out}
    values["cluster"]["create"] = False
    release(values)
    path = "/apis/apps/v1/namespaces/drystone/deployments/drystone-operator"
    before = world.api.call("GET", path).json()["metadata"]["generation"]
    world.config.upgrade(CHART, "drystone", values, timeout=INSTALL_S)
    assert world.api.call("GET", path).json()["metadata"]["generation"] == before


def test_ours_is_the_default_class_where_there_is_no_other(world, release):
    world.api.call("POST", CLASSES, storage_class("plain", default=False))
    release()
    assert marked(world)
    # Its own mark does not count as another's at an upgrade.
    world.config.upgrade(CHART, "drystone", {}, timeout=INSTALL_S)
    assert marked(world)


def test_another_default_class_stays_the_only_one(world, release):
    world.api.call("POST", CLASSES, storage_class("theirs", default=True))
    release()
    assert not marked(world)


def test_an_uninstall_leaves_clusters_and_an_install_takes_them_up(world, release):
    release()
    cluster = {
        "apiVersion": "drystone.io/v1alpha1",
        "kind": "StorageCluster",
        "metadata": {"name": "main"},
        "spec": {"metadata": {"type": "sqlite"}},
    }
    world.api.wait(CLUSTERS, "the definition")
    made = world.api.call("POST", CLUSTERS, cluster)
    assert made.status_code == 201, made.text
    world.config.uninstall("drystone", timeout=INSTALL_S)
    assert names(world, CLUSTERS) == {"main"}
    release()
    again = world.api.call("GET", f"{CLUSTERS}/main").json()
    assert again["metadata"]["uid"] == made.json()["metadata"]["uid"]
    world.api.call("DELETE", f"{CLUSTERS}/main")


def test_definitions_go_too_where_that_is_wanted(world, release):
    release({"crds": {"keep": False}})
    world.config.uninstall("drystone", timeout=INSTALL_S)
    found = world.api.call("GET", DEFINITIONS).json()["items"]
    assert all("deletionTimestamp" in one["metadata"] for one in found)


def test_snapshots_are_taken_up_where_they_are_defined(world, release):
    release({"snapshots": {"sidecar": "Auto"}})
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/drystone-csi-controller"
    rules = world.api.call("GET", path).json()["rules"]
    assert not [rule for rule in rules if "snapshot.storage.k8s.io" in rule["apiGroups"]]


def test_two_namespaces_are_served_by_one_operator(world, release):
    release(values_of("two-namespaces"))
    for name in ("storage-a", "storage-b"):
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/roles"
        assert names(world, path) == {"stone-operator", "stone-csi-controller"}
