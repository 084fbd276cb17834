"""A manager and its etcd: waited for at the start, kept small, never founded anew by mistake."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import Any

import pytest

from drystone_common.errors import DataError, InvalidArgumentError
from drystone_storaged.cluster.etcd_errors import StoreDeniedError
from drystone_storaged.cluster.store import CompactedError, StoreUnavailableError
from drystone_storaged.manager import loops, metadata
from drystone_storaged.manager.metadata import etcd_config
from drystone_storaged.manager.settings import ManagerSettings
from tests.storaged.etcd_server import Etcd
from tests.storaged.manager_env import until
from tests.storaged.managers_env import cluster


@pytest.fixture
def etcd(tmp_path):
    made = Etcd(tmp_path)
    yield made
    made.kill()


async def test_a_manager_waits_for_an_etcd_that_is_away_and_goes_on_when_it_comes(tmp_path, etcd):
    async with cluster(tmp_path, etcd.endpoints, ()) as made:
        starting = asyncio.create_task(made.start("m1"))
        _, waits = await asyncio.wait([starting], timeout=1.0)
        assert waits, "it neither fails nor serves"
        await asyncio.to_thread(etcd.start)
        async with asyncio.timeout(30):
            manager = await starting
        await until(lambda: manager.services.leadership.leads, "it leads")

        # Away while it runs: no call is answered by a leader that may be none, and it comes back.
        etcd.kill()
        await until(lambda: not manager.services.leadership.leads, "it knows that it may not lead")
        assert (await manager.http.get("/v1/volumes")).json()["code"] == "not_leader"
        await asyncio.to_thread(etcd.start)
        await until(lambda: manager.services.leadership.leads, "it leads again")
        assert (await manager.http.get("/v1/volumes")).status_code == 200


async def test_what_waiting_does_not_cure_ends_the_start(monkeypatch):
    tries = []

    async def work() -> None:
        tries.append(1)
        raise StoreDeniedError("no") if len(tries) > 2 else StoreUnavailableError("away")

    monkeypatch.setattr(metadata, "AGAIN_S", 0.001)
    with pytest.raises(StoreDeniedError):
        await metadata._again(work)
    assert len(tries) == 3


def test_a_manager_that_waits_for_its_store_can_be_stopped(tmp_path, etcd):
    config = tmp_path / "m.toml"
    (tmp_path / "tokens").write_text("admin " + "a" * 32 + "\n")
    config.write_text(
        f'state_dir = "{tmp_path}/state"\nmetadata = "etcd"\n'
        f'etcd_endpoints = ["{etcd.endpoints[0]}"]\ntokens_file = "{tmp_path}/tokens"\n'
    )
    argv = [sys.executable, "-m", "drystone_cli", "manager", "--config", str(config)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            assert b"waiting for it" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


async def test_history_is_forgotten_after_its_time(tmp_path, etcd, monkeypatch):
    monkeypatch.setattr(loops, "COMPACT_S", 0.05)
    monkeypatch.setattr(loops, "HISTORY_S", 0.2)
    etcd.start()
    async with cluster(tmp_path, etcd.endpoints, ("m1",)) as made:
        store = made.managers["m1"].services.env.store

        async def compacted() -> bool:
            watch = store.watch("/", 1)
            try:
                await anext(watch)
            except CompactedError:
                return True
            finally:
                await watch.aclose()
            return False

        await until(compacted, "the first compaction")
        answer = await made.managers["m1"].http.post("/v1/join-tokens", json={"role": "client"})
        assert answer.status_code == 201, "what is current stays"


async def test_a_store_that_lost_its_cluster_is_not_founded_anew(tmp_path, etcd):
    etcd.start()
    async with cluster(tmp_path, etcd.endpoints, ("m1",)) as made:
        old = made.managers["m1"].services.env.cluster.uuid
        with pytest.raises(DataError) as caught:
            await made.start("m1", etcd_namespace="/elsewhere")
        assert caught.value.code == "store_emptied"
        assert old in caught.value.message
        assert "etcd_namespace" in (caught.value.hint or "")


GOOD: dict[str, Any] = {
    "metadata": "etcd",
    "etcd_endpoints": ["127.0.0.1:2379", "[::1]:2379", "etcd-1.x:2379"],
}


@pytest.mark.parametrize(
    "change",
    [
        {"etcd_endpoints": []},
        {"etcd_endpoints": ["http://127.0.0.1:2379"]},
        {"etcd_endpoints": ["127.0.0.1"]},
        {"etcd_namespace": "drystone"},
        {"etcd_namespace": "/a b"},
        {"etcd_namespace": "/"},
        {"etcd_cert_file": "x"},
        {"etcd_cert_file": "x", "etcd_key_file": "x"},
    ],
)
def test_settings_of_etcd_that_make_no_sense_are_refused(tmp_path, change):
    etcd_config(ManagerSettings(state_dir=tmp_path, **GOOD))
    with pytest.raises(InvalidArgumentError) as caught:
        etcd_config(ManagerSettings(state_dir=tmp_path, **{**GOOD, **change}))
    assert caught.value.code == "invalid_settings"
    assert caught.value.hint
