"""A Kubernetes, a manager and the whole operator in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import kopf
import pytest

from drystone_operator.apply.kube_http import connected
from drystone_operator.main import Access, Operator
from drystone_operator.settings import OperatorSettings
from tests.operator.fake_kube import FakeKube, serving
from tests.operator.fake_manager import FakeManager
from tests.operator.objects import NAMESPACE, node

STOP_S = 40.0  # kopf waits for its watches to end, and each ends with its stream


def settings(**changes: Any) -> OperatorSettings:
    """Fast: no test waits for a resync."""
    values: dict[str, Any] = {
        "namespaces": (NAMESPACE,),
        "image": "drystone:1",
        "etcd_image": "etcd:1",
        "provisioner_image": "provisioner:1",
        "attacher_image": "attacher:1",
        "resizer_image": "resizer:1",
        "registrar_image": "registrar:1",
        "livenessprobe_image": "livenessprobe:1",
        "health_listen": "127.0.0.1:0",
        "resync_s": 0.5,
        "failover_tick_s": 0.05,
    }
    return OperatorSettings(**{**values, **changes})


class Lab:
    """What a test looks at and pulls at."""

    def __init__(self, kube: FakeKube, manager: FakeManager, address: str) -> None:
        self.kube = kube
        self.manager = manager
        self.address = address
        self.now = 0.0

    @asynccontextmanager
    async def running(self, **changes: Any) -> AsyncIterator[Operator]:
        """The operator, from its start to its end; it may run several times."""
        stop = asyncio.Event()
        async with connected(5.0, self.address) as client:

            def login(**_: Any) -> kopf.ConnectionInfo:
                return kopf.ConnectionInfo(server=self.address)

            access = Access(client, login, self.manager.transport)
            operator = Operator(settings(**changes), access, monotonic=lambda: self.now)
            task = asyncio.create_task(operator.run(stop))
            try:
                yield operator
            finally:
                stop.set()
                self.kube.closing = True
                async with asyncio.timeout(STOP_S):
                    await task
                self.kube.closing = False

    def condition(self, plural: str, name: str, kind: str = "Ready") -> dict[str, Any]:
        """A condition of one of our objects."""
        found = self.kube.get(plural, name, NAMESPACE) or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == kind), {})

    async def until_condition(
        self, plural: str, name: str, reason: str, kind: str = "Ready"
    ) -> str:
        """Wait for a reason; gives the message."""
        await self.kube.until(lambda: self.condition(plural, name, kind).get("reason") == reason)
        return str(self.condition(plural, name, kind)["message"])

    def settle(self) -> None:
        """Do what Kubernetes' own controllers do: pods start, workloads are ready."""
        ready = {"readyReplicas": 3, "numberReady": 3, "desiredNumberScheduled": 3}
        for plural in ("daemonsets", "statefulsets", "deployments"):
            for body in self.kube.all(plural):
                name, space = body["metadata"]["name"], body["metadata"]["namespace"]
                self.kube.change(plural, name, space, {"status": ready})


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Three nodes, no StorageCluster yet."""
    kube, manager = FakeKube(), FakeManager()
    kube.put("namespaces", {"metadata": {"name": NAMESPACE}})
    for name in ("a", "b", "c"):
        kube.put("nodes", node(name))
    async with serving(kube) as address:
        yield Lab(kube, manager, address)
