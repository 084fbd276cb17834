"""The client of several managers: who leads is found, refusals keep their kind."""

from __future__ import annotations

import httpx
import pytest

from drystone_common.errors import (
    ConflictError,
    DeadlineError,
    InvalidArgumentError,
    UnavailableError,
)
from drystone_operator.handlers.managers import Managers
from drystone_operator.handlers.observe import Secrets
from drystone_operator.manager import views
from drystone_operator.manager.client import ManagerClient
from drystone_operator.plan.views import EngineView, Unanswered
from drystone_storaged.agent.trust import client_context
from tests.operator.fake_manager import FakeManager
from tests.operator.wanted import EXTERNAL, build
from tests.storaged import tls_env

URLS = ("http://m0", "http://m1", "http://m2")


def client(handle) -> ManagerClient:
    return ManagerClient(URLS, "t" * 20, timeout_s=5.0, transport=httpx.MockTransport(handle))


def led_by(leader: str, asked: list[str]):
    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host != leader:
            return httpx.Response(503, json={"code": "not_leader", "detail": "a standby"})
        return httpx.Response(200, json={"items": []})

    return handle


async def test_a_standby_sends_on_and_the_leader_is_remembered():
    asked: list[str] = []
    found = client(led_by("m2", asked))
    await found.get("/v1/pools")
    await found.get("/v1/pools")
    await found.aclose()
    assert asked == ["m0", "m1", "m2", "m2"]


async def test_a_manager_that_is_gone_is_passed_over():
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.host == "m0":
            raise httpx.ConnectError("no route")
        return httpx.Response(200, json={"ok": True})

    found = client(handle)
    assert await found.get("/v1/status") == {"ok": True}
    await found.aclose()


async def test_managers_of_another_cluster_count_as_no_answer():
    manager = FakeManager()
    found = ManagerClient(URLS, "t" * 20, timeout_s=5.0, transport=manager.transport())
    known = manager.uuid
    for ask in (views.look, views.look_at_nodes):
        manager.uuid = known
        assert isinstance(await ask(found, known), EngineView)
        manager.uuid = "99999999-2222-3333-4444-555555555555"
        answer = await ask(found, known)
        assert isinstance(answer, Unanswered)
        assert answer.is_other
    await found.aclose()


async def test_when_none_leads_the_last_refusal_is_told():
    found = client(led_by("nobody", []))
    with pytest.raises(UnavailableError) as caught:
        await found.get("/v1/status")
    await found.aclose()
    assert caught.value.code == "not_leader"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(409, "device_not_blank", ConflictError), (504, "fence_unproven", DeadlineError)],
)
async def test_a_refusal_is_not_asked_of_the_next_manager(status, code, kind):
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(status, json={"code": code, "detail": "no"})

    found = client(handle)
    with pytest.raises(kind):
        await found.post("/v1/nodes/a/drives")
    await found.aclose()
    assert asked == ["m0"]


async def test_an_answer_that_is_too_slow_is_a_deadline_and_never_a_proof():
    def handle(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    found = client(handle)
    with pytest.raises(DeadlineError):
        await found.post("/v1/clients/block-a/fence")
    await found.aclose()


async def test_a_page_that_is_no_managers_is_not_believed():
    found = client(lambda _: httpx.Response(200, text="<html>proxy</html>"))
    assert isinstance(await views.look(found), Unanswered)
    await found.aclose()


async def test_the_token_is_sent_and_a_look_reads_everything():
    manager = FakeManager()
    manager.add_node("a")
    manager.add_drive("a", 1)
    manager.volumes = ["v"]
    found = ManagerClient(URLS, "t" * 20, timeout_s=5.0, transport=manager.transport())
    view = await views.look(found)
    await found.aclose()
    assert isinstance(view, EngineView)
    assert view.node("server", "a") is not None
    assert view.node("client", "a") is None
    assert view.pool_volumes == {"fast": 1}
    assert (view.volumes, view.pgs.all_in_sync, view.drives[0].used) == (1, True, 1 << 30)


async def test_who_votes_is_taken_from_the_status():
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/status":
            nodes = [
                {"name": name, "role": "server", "connected": True} | said
                for name, said in (("a", {"voter": True}), ("b", {"voter": False}), ("old", {}))
            ]
            return httpx.Response(200, json={"nodes": nodes})
        return httpx.Response(200, json={"items": []})

    found = client(handle)
    view = await views.look(found)
    await found.aclose()
    assert isinstance(view, EngineView)
    assert [node.votes for node in view.nodes] == [True, False, None]


async def test_nonsense_in_an_answer_reads_as_not_known():
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/status":
            body = {"nodes": [{"name": 7}], "drives": [{"id": "x"}], "pgs": None, "health": 3}
            return httpx.Response(200, json=body)
        return httpx.Response(200, json={"items": []})

    found = client(handle)
    view = await views.look(found)
    await found.aclose()
    assert isinstance(view, EngineView)
    assert (view.nodes[0].name, view.nodes[0].connected, view.drives[0].id) == ("", False, 0)
    assert view.health == "unknown"


async def test_a_manager_with_tls_is_verified_with_the_authority(tmp_path):
    ours, another = tls_env.authority(), tls_env.authority("another")
    folder = tmp_path / "m"
    folder.mkdir()
    async with tls_env.managing(folder, tls_env.leaf(ours)) as started:
        token = (folder / "admin").read_text()
        for by, expected in ((ours, ""), (another, "certificate_unknown_ca")):
            verify = client_context(by.certificate.encode(), "the CA of the cluster")
            client = ManagerClient([started.rest], token, timeout_s=20.0, verify=verify)
            if expected:
                with pytest.raises(UnavailableError, match="not trusted here") as caught:
                    await client.get("/v1/cluster")
                assert caught.value.code == expected
            else:
                assert (await client.get("/v1/cluster"))["uuid"]
            await client.aclose()


@pytest.mark.parametrize("url", ["http://storage.example:8460", "https://storage.example:8460"])
async def test_no_token_leaves_in_clear_text_where_there_is_a_ca(url):
    pem = tls_env.authority().certificate
    managers = Managers(timeout_s=5.0, urls=(url,), transport=FakeManager().transport)
    asked = managers.client(build(EXTERNAL), Secrets({}, "t" * 20, pem))
    if url.startswith("https"):
        assert await asked is not None
    else:
        with pytest.raises(InvalidArgumentError) as caught:
            await asked
        assert caught.value.code == "not_https"
    await managers.aclose()
