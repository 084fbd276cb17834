"""A cluster of real processes on etcd with three managers: killed, frozen, all gone, back again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from drystone_storaged.agent.rest import Rest
from tests.storaged.etcd_server import etcd_binary
from tests.storaged.test_local_cluster import DEADLINE_S, Cluster, copy, ours

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("nbdcopy") is None, reason="nbdcopy is missing: libnbd-bin"),
]
MANAGERS = ("manager-1", "manager-2", "manager-3")
SIZE = 16 << 20


class Several(Cluster):
    """With what tests ask single managers, without a program's start for each look."""

    def processes(self) -> dict[str, dict[str, Any]]:
        return {p["name"]: p for p in self.json("local", "status")["processes"]}

    def roles(self) -> dict[str, str | None]:
        """What each manager says it is; None where it says nothing."""
        names = json.loads((self.folder / "cluster.json").read_text())["endpoints"]["rest_urls"]
        return {name: self.role(name) for name in MANAGERS[: len(names)]}

    def role(self, manager: str) -> str | None:
        with contextlib.suppress(httpx.HTTPError):
            answer = self.ask(manager, "/v1/health", timeout=1.0)
            return answer.json()["role"] if answer.is_success else None
        return None

    def leader(self) -> str | None:
        found = [name for name, role in self.roles().items() if role == "leader"]
        # One that gave up and another that took over may each have been asked a moment too early.
        return found[0] if len(found) == 1 else None

    def another_leads(self, old: str) -> str:
        self.until(lambda: self.leader() not in (None, old), "another manager leads")
        found = self.leader()
        assert found is not None
        return found

    def ask(
        self, manager: str, path: str, method: str = "GET", timeout: float = 30.0, **more: Any
    ) -> httpx.Response:
        url, token = self._endpoint(MANAGERS.index(manager))
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(
            method, f"{url}{path}", headers=headers, timeout=timeout, trust_env=False, **more
        )

    def _endpoint(self, number: int) -> tuple[str, str]:
        data = json.loads((self.folder / "cluster.json").read_text())
        return data["endpoints"]["rest_urls"][number], Path(data["token_file"]).read_text().strip()

    def pgs(self) -> dict[str, int]:
        data = json.loads((self.folder / "cluster.json").read_text())
        token = Path(data["token_file"]).read_text().strip()
        with Rest(data["endpoints"]["rest_urls"], token) as rest:
            found: dict[str, int] = rest.get("/v1/status")["pgs"]
        return found

    def in_sync(self) -> bool:
        pgs = self.pgs()
        return pgs["total"] > 0 and pgs["in_sync"] == pgs["total"]

    def degraded(self) -> bool:
        pgs = self.pgs()
        return pgs["degraded"] == pgs["total"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("DRYSTONE_ETCD", etcd_binary())
    found = Several(tmp_path / "c")
    try:
        yield found
    finally:
        found.clean()


class Writer:
    """Copies a file to an export again and again, until told to stop; counts and never fails."""

    def __init__(self, source: Path, uri: str) -> None:
        self._argv = ["nbdcopy", "--flush", str(source), uri]
        self._stop = threading.Event()
        self.rounds = 0
        self.failed: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            done = subprocess.run(
                self._argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
            if done.returncode:
                self.failed.append(done.stderr)
            self.rounds += 1


def test_leaders_are_killed_and_frozen_and_the_next_one_goes_on(cluster, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE))
    cluster("local", "up", "--metadata", "etcd", "--managers", "3", "--drive-size", "4Gi")
    shown = cluster.processes()
    assert {"etcd-1", *MANAGERS} <= shown.keys()
    first = cluster.leader()
    assert first is not None
    assert [shown[m]["role"] for m in MANAGERS if m != first] == ["standby"] * 2
    cluster("volume", "create", "db", "--size", str(SIZE))

    # Killed: another one leads, and attaches, and drops.
    cluster("local", "stop", first, "--signal", "KILL")
    second = cluster.another_leads(first)
    attached = cluster.json("volume", "attach", "db", "--as", "export")
    with Writer(source, attached["nbd_uri"]) as writer:
        cluster.until(lambda: writer.rounds >= 1, "a first round")
        cluster("local", "stop", "node-2", "--signal", "KILL")
        cluster.until(cluster.degraded, "the drop of the dead server")
        rounds = writer.rounds
        cluster.until(lambda: writer.rounds >= rounds + 2, "writes go on")
    assert not writer.failed
    cluster("local", "start", "node-2")
    cluster.until(cluster.in_sync, "all placement groups in sync")
    cluster("local", "start", first)
    assert cluster.role(first) == "standby"

    # Frozen: it is replaced, and when it wakes it is a standby that changes nothing.
    cluster("local", "stop", second, "--signal", "STOP")
    third = cluster.another_leads(second)
    cluster("volume", "create", "while-frozen", "--size", "1Mi")
    cluster("local", "stop", "node-3", "--signal", "KILL")
    cluster.until(cluster.degraded, "the drop of another dead server")
    before = cluster.ask(third, "/v1/map").json()
    cluster("local", "stop", second, "--signal", "CONT")
    answer = cluster.ask(second, "/v1/volumes", "POST", json={"name": "late", "size": 1 << 20})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_leader")
    cluster.until(lambda: cluster.role(second) == "standby", "the frozen one is a standby")
    assert cluster.leader() == third
    assert cluster.ask(third, "/v1/map").json() == before
    names = [v["name"] for v in cluster.json("volume", "list")["items"]]
    assert sorted(names) == ["db", "while-frozen"]
    cluster("local", "start", "node-3")
    cluster.until(cluster.in_sync, "all placement groups in sync")
    back = tmp_path / "back"
    copy(attached["nbd_uri"], str(back))
    assert back.read_bytes() == source.read_bytes()
    cluster("local", "destroy")
    assert not cluster.folder.exists()
    assert not ours(cluster.folder)


def test_without_managers_and_etcd_attached_volumes_go_on(cluster, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE))
    cluster("local", "up", "--metadata", "etcd", "--managers", "2", "--drive-size", "4Gi")
    cluster("volume", "create", "db", "--size", str(SIZE))
    uri = cluster.json("volume", "attach", "db", "--as", "export")["nbd_uri"]
    pids = cluster.pids()
    managers = [name for name in pids if name.startswith("manager-")]
    with Writer(source, uri) as writer:
        cluster.until(lambda: writer.rounds >= 1, "a first round")

        # etcd alone: the managers stay, wait, and come back by themselves.
        cluster("local", "stop", "etcd-1", "--signal", "KILL")
        cluster.until(lambda: cluster.leader() is None, "nobody leads without etcd")
        rounds = writer.rounds
        cluster.until(lambda: writer.rounds >= rounds + 2, "writes without etcd")
        cluster("local", "start", "etcd-1")
        cluster.until(lambda: cluster.leader() is not None, "a manager leads again")
        cluster("volume", "create", "after-etcd", "--size", "1Mi")
        assert {n: p for n, p in cluster.pids().items() if n in managers} == {
            n: pids[n] for n in managers
        }, "nobody restarted them"

        # Everything of the control side.
        for name in ("etcd-1", *managers):
            os.kill(cluster.pids()[name], signal.SIGKILL)
        rounds = writer.rounds
        cluster_json = json.loads((cluster.folder / "cluster.json").read_text())
        cluster.until(lambda: writer.rounds >= rounds + 5, "writes without any manager")
        assert cluster_json["metadata"] == "etcd"
        cluster("local", "up")
        assert cluster.in_sync()
    assert not writer.failed
    back = tmp_path / "back"
    copy(uri, str(back))
    assert back.read_bytes() == source.read_bytes()
    assert cluster.pids()["node-1-server"] == pids["node-1-server"], "servers ran on"
    changed = cluster("local", "up", "--metadata", "sqlite", check=False)
    assert changed.returncode == 4
    assert "destroy" in changed.stderr
