"""Of several managers the one that leads is asked, and nothing is done twice that must not be."""

from __future__ import annotations

import json

import httpx
import pytest

from drystone_cli import context
from drystone_common.errors import (
    DeadlineError,
    DeniedError,
    DrystoneError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from drystone_csi.manager_rest import RestManager
from drystone_csi.model import AccessMode
from drystone_storaged.agent.failover import Managers, may_repeat
from drystone_storaged.agent.rest import Rest

URLS = ("http://m1", "http://m2", "http://m3")
NOT_LEADER = {"code": "not_leader", "kind": "unavailable", "detail": "no", "status": 503}
LOST = {**NOT_LEADER, "code": "leadership_lost"}


class World:
    """Managers by host: which one leads, and what happens to the next calls that are no look."""

    def __init__(self, leader: str | None = "m2") -> None:
        self.leader = leader
        self.down: set[str] = set()
        self.next: list[object] = []
        self.calls: list[tuple[str, str, str]] = []
        self.looks: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if host in self.down:
            raise httpx.ConnectError("refused")
        if request.url.path == "/v1/health":
            self.looks.append(host)
            return httpx.Response(200, json={"leader": host == self.leader, "status": "ok"})
        self.calls.append((host, request.method, request.url.path))
        if self.next:
            told = self.next.pop(0)
            if callable(told):
                told = told()
            if isinstance(told, Exception):
                raise told
            if isinstance(told, tuple):
                status, body = told
                return httpx.Response(status, json=body)
        if host != self.leader:
            return httpx.Response(503, json=NOT_LEADER)
        return httpx.Response(200, json={"host": host, "uuid": "u"})

    def moves(self, leader: str, result: object) -> object:
        """A result after which another manager leads."""

        def told() -> object:
            self.leader = leader
            return result

        return told

    def rest(self, urls=URLS, timeout_s: float = 5.0) -> Rest:
        return Rest(urls, "t", transport=httpx.MockTransport(self), timeout_s=timeout_s)

    def csi(self) -> RestManager:
        return RestManager(URLS, "t", transport=httpx.MockTransport(self))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for module in ("drystone_storaged.agent.rest", "drystone_csi.manager_rest"):
        monkeypatch.setattr(f"{module}.PAUSE_S", 0.001)


def test_the_leader_is_found_once_and_asked_from_then_on():
    world = World()
    with world.rest() as rest:
        assert rest.get("/v1/x")["host"] == "m2"
        assert rest.get("/v1/x")["host"] == "m2"
    assert world.looks == ["m1", "m2"]


def test_a_single_manager_is_asked_without_a_look_and_only_once():
    world = World("m1")
    with world.rest("http://m1") as rest:
        rest.get("/v1/x")
        assert not world.looks
        world.leader = None
        with pytest.raises(UnavailableError) as caught:
            rest.get("/v1/x")
    assert caught.value.code == "not_leader"
    assert len(world.calls) == 2


def test_a_manager_that_is_gone_is_passed_over():
    world = World("m3")
    world.down = {"m1", "m2"}
    with world.rest() as rest:
        assert rest.get("/v1/x")["host"] == "m3"


UNSURE = [(503, LOST), httpx.ReadError("x"), httpx.RemoteProtocolError("x")]


@pytest.mark.parametrize("told", [(503, NOT_LEADER), httpx.ConnectError("x"), *UNSURE])
def test_a_call_that_may_be_repeated_goes_to_the_next_leader(told):
    world = World()
    world.next = [world.moves("m3", told)]
    with world.rest() as rest:
        assert rest.post("/v1/volumes", {"name": "v"})["host"] == "m3"
    assert [host for host, _, _ in world.calls] == ["m2", "m3"]


ONCE = [
    ("POST", "/v1/volumes/v/fence"),
    ("POST", "/v1/clients/b/fence"),
    ("POST", "/v1/pools/p/mark-lost"),
    ("DELETE", "/v1/nodes/n"),
]


@pytest.mark.parametrize(("method", "path"), ONCE)
@pytest.mark.parametrize("told", UNSURE)
def test_what_must_not_be_repeated_blindly_is_told_to_the_caller(method, path, told):
    world = World()
    world.next = [world.moves("m3", told)]
    with world.rest() as rest, pytest.raises(UnavailableError):
        rest.delete(path) if method == "DELETE" else rest.post(path)
    assert len(world.calls) == 1


@pytest.mark.parametrize(("method", "path"), ONCE)
def test_what_was_certainly_not_done_is_done_at_the_leader(method, path):
    world = World()
    world.next = [world.moves("m3", (503, NOT_LEADER))]
    with world.rest() as rest:
        rest.delete(path) if method == "DELETE" else rest.post(path)
    assert [host for host, _, _ in world.calls] == ["m2", "m3"]


def test_a_fence_that_names_what_it_means_may_be_repeated():
    assert may_repeat("POST", "/v1/volumes/v/fence", {"nonce": "0" * 16})
    assert may_repeat("POST", "/v1/volumes/v/fence", {"generation": 0})
    assert not may_repeat("POST", "/v1/volumes/v/fence", {"node": "a"})
    assert not may_repeat("POST", "/v1/volumes/v/fence", None)
    assert may_repeat("DELETE", "/v1/volumes/v", None)
    assert may_repeat("POST", "/v1/volumes/v/unpublish", {})
    assert may_repeat("POST", "/v1/nodes/n/drives", {"device": "d"})


def test_a_delete_that_was_repeated_and_finds_nothing_has_succeeded():
    world = World()
    gone = (404, {"code": "volume_not_found", "detail": "gone"})
    world.next = [httpx.ReadError("x"), gone, gone]
    with world.rest() as rest:
        rest.delete("/v1/volumes/v")
        with pytest.raises(NotFoundError):
            rest.delete("/v1/volumes/v")


def test_the_time_of_a_call_is_never_exceeded_by_repetition():
    world = World()
    world.next = [httpx.ReadTimeout("slow")]
    with world.rest() as rest:
        with pytest.raises(DeadlineError):
            rest.get("/v1/x")
        assert rest.get("/v1/x")["host"] == "m2"
    assert world.looks == ["m1", "m2", "m2"], "the one that was silent is looked at again"


def test_nobody_leads_is_said_with_what_each_manager_said():
    world = World(None)
    world.down = {"m3"}
    with world.rest(timeout_s=0.05) as rest, pytest.raises(UnavailableError) as caught:
        rest.get("/v1/x")
    assert caught.value.code == "no_leader"
    assert "http://m1 is a standby" in caught.value.message
    assert "http://m3 does not answer (ConnectError)" in caught.value.message
    assert len(world.looks) >= 2


def test_an_election_is_waited_for():
    class Later(World):
        def __call__(self, request):
            if len(self.looks) > 7:
                self.leader = "m1"
            return super().__call__(request)

    world = Later(None)
    with world.rest() as rest:
        assert rest.get("/v1/x")["host"] == "m1"


@pytest.mark.parametrize(("status", "kind"), [(401, UnauthenticatedError), (403, DeniedError)])
def test_a_bad_token_is_said_at_the_first_look(status, kind):
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json={"detail": "no"}))
    with Rest(URLS, "t", transport=transport) as rest, pytest.raises(kind):
        rest.get("/v1/x")


@pytest.mark.parametrize("urls", [[], [""], ""])
def test_no_address_is_a_typed_error(urls):
    with pytest.raises(InvalidArgumentError):
        Managers(urls)


async def test_the_csi_driver_follows_the_leader_too():
    world = World()
    manager = world.csi()
    assert await manager.cluster_uuid() == "u"
    world.next = [world.moves("m3", (503, NOT_LEADER)), world.moves("m1", httpx.ReadError("x"))]
    await manager.publish("1", "n", AccessMode("rw"))
    assert [host for host, _, _ in world.calls] == ["m2", "m2", "m3", "m1"]
    assert await manager.healthy()
    await manager.aclose()


async def test_the_csi_driver_says_that_nobody_leads(monkeypatch):
    monkeypatch.setattr("drystone_csi.manager_rest.HEALTH_TIMEOUT_S", 0.05)
    world = World(None)
    manager = world.csi()
    assert not await manager.healthy()
    world.down = {"m1", "m2", "m3"}
    assert not await manager.healthy()
    await manager.aclose()


async def test_a_delete_of_the_csi_driver_succeeds_when_its_answer_was_lost():
    world = World()
    world.next = [httpx.ReadError("x"), (404, {"code": "volume_not_found", "detail": "gone"})]
    manager = world.csi()
    await manager.delete_volume("1")
    assert len(world.calls) == 2
    await manager.aclose()


def test_errors_of_a_leader_are_final():
    world = World()
    world.next = [(409, {"code": "volume_in_use", "detail": "no"})]
    with world.rest() as rest, pytest.raises(DrystoneError) as caught:
        rest.delete("/v1/volumes/v")
    assert caught.value.code == "volume_in_use"
    assert len(world.calls) == 1


def test_the_command_line_takes_every_manager_from_its_variable_or_its_folder(
    tmp_path, monkeypatch
):
    token = tmp_path / "token"
    token.write_text("secret\n")
    asked = []

    def client(urls, token, **more):
        asked.append((urls, token))
        return World("m3").rest(urls)

    monkeypatch.setattr(context, "Rest", client)
    monkeypatch.setenv("DRYSTONE_URL", "http://m1, http://m3")
    monkeypatch.setenv("DRYSTONE_TOKEN_FILE", str(token))
    with context.manager() as rest:
        assert rest.get("/v1/x")["host"] == "m3"
    monkeypatch.setenv("DRYSTONE_URL", "http://m1,m3")
    with pytest.raises(InvalidArgumentError) as caught:
        context.find_cluster()
    assert "commas" in (caught.value.hint or "")

    monkeypatch.delenv("DRYSTONE_URL")
    monkeypatch.setenv("DRYSTONE_DIR", str(tmp_path))
    endpoints = {"rest": "http://m1", "block": {}}
    for more in ({}, {"rest_urls": ["http://m2", "http://m3"]}):
        data = {"endpoints": {**endpoints, **more}, "token_file": str(token)}
        (tmp_path / "cluster.json").write_text(json.dumps(data))
        with context.manager():
            pass
    assert [urls for urls, _ in asked] == [
        ["http://m1", "http://m3"],
        ["http://m1"],
        ["http://m2", "http://m3"],
    ]
