"""Rolling update with the whole operator, and its settings and documents."""

from __future__ import annotations

import re

import httpx
import pytest

from drystone_common.errors import InvalidArgumentError
from drystone_common.metrics import Metrics
from drystone_operator.main import platform
from drystone_operator.metrics import OperatorMetrics
from drystone_operator.names import ANNOTATION_TEMPLATE
from drystone_operator.settings import OperatorSettings
from tests.operator.conftest import Lab, settings
from tests.operator.objects import NAMESPACE
from tests.operator.test_slice import until_serving
from tests.unit.source_tree import ROOT


def template(lab: Lab) -> str:
    body = lab.kube.get("daemonsets", "c-server", NAMESPACE)
    assert body is not None
    return str(body["spec"]["template"]["metadata"]["annotations"][ANNOTATION_TEMPLATE])


def put_server(lab: Lab, on: str) -> None:
    """As the DaemonSet's controller does: a pod of the template of now, ready."""
    labels = {"drystone.io/cluster": "c", "app.kubernetes.io/component": "server"}
    metadata = {
        "name": f"server-{on}", "namespace": NAMESPACE, "labels": labels,
        "annotations": {ANNOTATION_TEMPLATE: template(lab)},
    }  # fmt: skip
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    lab.kube.put("pods", {"metadata": metadata, "spec": {"nodeName": on}, "status": status})


def servers(lab: Lab) -> list[str]:
    found = (body["metadata"]["name"] for body in lab.kube.all("pods"))
    return [name for name in found if name.startswith("server-")]


async def test_servers_are_replaced_one_after_the_other_when_all_is_in_sync(lab):
    async with lab.running():
        await until_serving(lab)
        for name in ("a", "b", "c"):
            put_server(lab, name)
        old = template(lab)
        lab.manager.pgs = {**lab.manager.pgs, "in_sync": 63, "degraded": 1}
        image = {"image": {"repository": "drystone", "tag": "2"}}
        lab.kube.change("storageclusters", "c", NAMESPACE, {"spec": image})
        await lab.kube.until(lambda: template(lab) != old)
        await lab.until_condition("storageclusters", "c", "Updating", "Progressing")
        waiting = "node a is next, when all placement groups are in sync (63 of 64)"
        await lab.kube.until(
            lambda: waiting in lab.condition("storageclusters", "c", "Progressing")["message"]
        )
        assert len(servers(lab)) == 3
        lab.manager.pgs = {**lab.manager.pgs, "in_sync": 64, "degraded": 0}
        for name in ("a", "b", "c"):
            await lab.kube.until(
                lambda name=name: lab.kube.get("pods", f"server-{name}", NAMESPACE) is None
            )
            assert len(servers(lab)) == 2
            put_server(lab, name)
        await lab.kube.until(
            lambda: lab.condition("storageclusters", "c", "Progressing")["reason"] == "Complete"
        )


class Turning(list[tuple[str, str]]):
    """Requests to Kubernetes: every round begins in sync, and is not any more in its middle."""

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab

    def append(self, request: tuple[str, str]) -> None:
        super().append(request)
        if request[1].endswith("/secrets/c-master"):
            self._lab.manager.pgs = {**self._lab.manager.pgs, "in_sync": 64, "degraded": 0}
        if "/persistentvolumes/" in request[1]:
            self._lab.manager.pgs = {**self._lab.manager.pgs, "in_sync": 63, "degraded": 1}

    @property
    def rounds(self) -> int:
        return sum("/persistentvolumes/" in path for _, path in self)


async def test_a_pod_is_deleted_on_what_is_true_then_and_not_when_the_round_began(lab):
    async with lab.running():
        await until_serving(lab)
        for name in ("a", "b", "c"):
            put_server(lab, name)
        old = template(lab)
        lab.kube.requests = turning = Turning(lab)
        image = {"image": {"repository": "drystone", "tag": "2"}}
        lab.kube.change("storageclusters", "c", NAMESPACE, {"spec": image})
        await lab.kube.until(lambda: template(lab) != old)
        await lab.until_condition("storageclusters", "c", "Updating", "Progressing")
        first = turning.rounds
        await lab.kube.until(lambda: turning.rounds > first + 4)
        assert len(servers(lab)) == 3
        lab.kube.requests = []
        lab.manager.pgs = {**lab.manager.pgs, "in_sync": 64, "degraded": 0}
        await lab.kube.until(lambda: servers(lab) == ["server-b", "server-c"])


async def test_health_says_no_when_no_round_ends(lab):
    async with lab.running() as operator:
        await until_serving(lab)
        assert operator.healthy()
        lab.now = 1000.0
        assert not operator.loops.pulse.recent(2000.0, 180.0)
        await lab.kube.until(operator.healthy)


def test_a_missing_image_is_told_at_the_start():
    with pytest.raises(InvalidArgumentError, match="attacher_image"):
        platform(settings(attacher_image=""))


def section(name: str, heading: str) -> str:
    parts = re.split(r"^## ", (ROOT / "docs" / name).read_text(), flags=re.MULTILINE)
    (found,) = [part for part in parts if part.startswith(heading + "\n")]
    return found


def test_every_setting_of_the_operator_is_documented():
    shown = set(re.findall(r"^\| `(\w+)` \|", section("settings.md", "operator"), re.MULTILINE))
    assert shown == set(OperatorSettings.model_fields)


def test_every_metric_of_the_operator_is_documented():
    metrics = OperatorMetrics(Metrics("operator", "1"))
    exposed = set(
        re.findall(r"^# HELP (drystone_operator_\w+)", metrics.render().decode(), re.MULTILINE)
    )
    words = re.findall(r"`(drystone_operator_\w+)", section("metrics.md", "operator"))
    assert set(words) == exposed


def test_every_reason_that_is_said_is_documented():
    plans = "\n".join(p.read_text() for p in (ROOT / "operator").rglob("*.py"))
    said = set(re.findall(r'Condition\(\s*"\w+",\s*[\w. "=]+,\s*"(\w+)"', plans))
    table = section("operator.md", "Conditions")
    assert {"Serving", "MasterKeyLost", "WaitingForDisks"} <= said
    assert {reason for reason in said if f"`{reason}`" not in table} == set()


async def test_metrics_and_health_are_served(lab):
    async with lab.running() as operator:
        await until_serving(lab)
        async with httpx.AsyncClient(base_url=f"http://{operator.health_address}") as http:
            assert (await http.get("/healthz")).text == "ok\n"
            assert "drystone_operator_rounds_total" in (await http.get("/metrics")).text
