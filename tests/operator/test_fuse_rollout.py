"""FUSE pods: one for every consuming node where it may be needed, replaced where nothing hangs."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest

from drystone_operator.models.cluster_parts import UpgradeStrategy
from drystone_operator.names import ANNOTATION_TEMPLATE
from drystone_operator.plan import cluster_status, fuse_rollout
from drystone_operator.plan.fuse_rollout import FuseSeen
from drystone_operator.plan.views import Workload
from drystone_operator.resources import config, daemons
from drystone_operator.resources.children import children, key
from tests.operator.conftest import Lab
from tests.operator.objects import NAMESPACE
from tests.operator.test_slice import until_serving
from tests.operator.wanted import SQLITE, build, pod

OLD = tuple(pod(f"fuse-{n}", n, "fuse", "old") for n in ("n1", "n2", "n3"))
NOBODY: frozenset[str] = frozenset()


def steps(**changes: Any) -> list[str]:
    seen = FuseSeen(pods=OLD, template="new", busy=NOBODY)
    return [str(action) for action in fuse_rollout.plan(replace(seen, **changes))]


def test_old_pods_are_replaced_one_at_a_time():
    assert steps() == ["delete Pod/ns/fuse-n1"]


def test_a_pod_stays_while_its_node_has_a_volume_or_may_attach_one():
    assert steps(busy=frozenset({"block-n1"})) == ["delete Pod/ns/fuse-n2"]
    assert steps(busy=frozenset({"block-n1", "block-n2", "block-n3"})) == []


def test_nothing_is_replaced_while_nobody_can_say_what_is_attached():
    assert steps(busy=None) == []


def test_nothing_is_replaced_where_a_person_does_that():
    assert steps(strategy=UpgradeStrategy.ON_DELETE) == []


def test_the_next_one_waits_until_the_one_before_is_ready():
    new = pod("fuse-n1", "n1", "fuse", "new", ready=False)
    assert steps(pods=(new, *OLD[1:])) == []
    assert steps(pods=(replace(new, ready=True), *OLD[1:])) == ["delete Pod/ns/fuse-n2"]
    assert steps(pods=(replace(OLD[0], deleting=True), *OLD[1:])) == []


def test_an_old_pod_that_is_not_ready_keeps_nobody_waiting():
    assert steps(pods=(replace(OLD[0], ready=False), *OLD[1:])) == ["delete Pod/ns/fuse-n1"]


def test_pods_of_others_and_of_this_version_are_left_alone():
    new = tuple(replace(p, template="new") for p in OLD)
    assert steps(pods=(*new, pod("block-n1", "n1", "block", "old"))) == []
    assert steps(template="") == []


def test_old_pods_are_told_and_do_not_count_as_progress():
    workload = Workload("DaemonSet", "c-fuse", "fuse", 3, 3, "new")
    found = cluster_status.progressing((workload,), OLD, "")
    assert (found.status, found.reason) == (False, "Complete")
    assert found.message.endswith("stay while their nodes have volumes: 3.")


def made(spec: Any = None, **platform: Any) -> dict[str, Any]:
    return {key(o): o for o in children(build({**SQLITE, **(spec or {})}, **platform), {})}


@pytest.mark.parametrize("attacher", ["auto", "fuse"])
def test_where_fuse_may_be_used_block_asks_the_helper(attacher):
    found = made({"csi": {"attacher": attacher}})
    assert "DaemonSet/c-fuse" in found
    files = found["ConfigMap/c-settings"]["data"]
    socket = tomllib.loads(files["block.toml"])["fuse_helper_socket"]
    helper = tomllib.loads(files["fuse.toml"])
    assert helper["socket"] == socket == "/run/drystone/c/fuse.sock"
    assert helper["state_dir"] == tomllib.loads(files["block.toml"])["state_dir"]


def test_where_another_attacher_is_wanted_only_what_runs_already_has_its_settings():
    found = made({"csi": {"attacher": "nbd"}})
    assert "DaemonSet/c-fuse" not in found
    assert "fuse.toml" in found["ConfigMap/c-settings"]["data"]


def test_where_it_is_switched_off_there_is_nothing_of_it():
    found = made(fuse_pods=False)
    assert "DaemonSet/c-fuse" not in found
    files = found["ConfigMap/c-settings"]["data"]
    assert "fuse.toml" not in files
    assert "fuse_helper_socket" not in files["block.toml"]


def test_the_fuse_pod_ends_by_itself_before_it_is_killed():
    template = daemons.fuse(build())["spec"]["template"]["spec"]
    assert template["terminationGracePeriodSeconds"] > config.fuse(build())["stop_wait_s"]


def test_the_fuse_pod_is_never_evicted_for_memory():
    wanted = build({**SQLITE, "placement": {"priorityClassName": "high"}})
    for made_by, priority in ((daemons.fuse, "system-node-critical"), (daemons.block, "high")):
        template = made_by(wanted)["spec"]["template"]["spec"]
        assert template["priorityClassName"] == priority


def test_no_mount_of_the_fuse_pod_reaches_the_node():
    for made_by in (daemons.fuse, daemons.block):
        (container,) = made_by(build())["spec"]["template"]["spec"]["containers"]
        assert [m for m in container["volumeMounts"] if "mountPropagation" in m] == []


def test_a_setting_of_the_block_daemons_is_no_new_version_of_the_fuse_pods():
    def template(ports: int) -> str:
        found = daemons.fuse(build({**SQLITE, "network": {"ports": {"control": ports}}}))
        return found["spec"]["template"]["metadata"]["annotations"][ANNOTATION_TEMPLATE]

    assert template(8461) == template(8462)


def put_fuse(lab: Lab, on: str) -> None:
    labels = {"drystone.io/cluster": "c", "app.kubernetes.io/component": "fuse"}
    body = lab.kube.get("daemonsets", "c-fuse", NAMESPACE)
    assert body is not None
    annotations = body["spec"]["template"]["metadata"]["annotations"]
    metadata = {
        "name": f"fuse-{on}", "namespace": NAMESPACE, "labels": labels,
        "annotations": {ANNOTATION_TEMPLATE: annotations[ANNOTATION_TEMPLATE]},
    }  # fmt: skip
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    lab.kube.put("pods", {"metadata": metadata, "spec": {"nodeName": on}, "status": status})


async def test_an_upgrade_takes_a_fuse_pod_only_when_its_last_volume_is_gone(lab):
    async with lab.running():
        await until_serving(lab)
        put_fuse(lab, "a")
        put_fuse(lab, "b")
        lab.manager.volumes = ["data"]
        lab.manager.attached = {"data": ["block-a"]}
        image = {"image": {"repository": "drystone", "tag": "2"}}
        lab.kube.change("storageclusters", "c", NAMESPACE, {"spec": image})
        await lab.kube.until(lambda: lab.kube.get("pods", "fuse-b", NAMESPACE) is None)
        put_fuse(lab, "b")
        await lab.kube.until(
            lambda: (
                "stay while their nodes have volumes: 1"
                in lab.condition("storageclusters", "c", "Progressing")["message"]
            )
        )
        assert lab.kube.get("pods", "fuse-a", NAMESPACE) is not None
        lab.manager.attached = {}
        await lab.kube.until(lambda: lab.kube.get("pods", "fuse-a", NAMESPACE) is None)
