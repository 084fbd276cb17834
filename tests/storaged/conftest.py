"""What tests of real processes and real stores share."""

from __future__ import annotations

import pytest

from drystone_storaged.cluster import leadership
from tests.storaged.etcd_server import Etcd
from tests.storaged.manager_env import listening, manager


@pytest.fixture
async def mgr(tmp_path):
    """A manager in this process, without nodes."""
    async with manager(tmp_path / "m") as running:
        yield running


@pytest.fixture
def port():
    """A real listener: the manager probes a drive's address before it believes that it is dead."""
    with listening() as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    """One member, for all tests of a module: each has a namespace of its own in it."""
    made = Etcd(tmp_path_factory.mktemp("etcd"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def patient_leases(monkeypatch):
    """Managers, peers and test share one loop: on a busy machine that may stand still for long."""
    monkeypatch.setattr(leadership, "TTL_S", 30.0)
