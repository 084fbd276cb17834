"""No answer over HTTP is read beyond its limit, whoever gives it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from aiohttp import web

from drystone_cli.bundle import kube_parts, local_parts, parts
from drystone_cli.kube import api, kubectl
from drystone_cli.kube.target import Target
from drystone_common.errors import DeadlineError, UnavailableError
from drystone_csi import manager_rest
from drystone_csi.manager_rest import RestManager
from drystone_operator.apply import kube_http
from drystone_operator.apply.interface import KubeError
from drystone_operator.apply.kube_http import connected
from drystone_operator.manager import client as operator_client
from drystone_operator.manager.client import ManagerClient
from drystone_storaged.agent import bounded, rest
from drystone_storaged.agent.rest import Rest

PIECE = b"x" * 4096
LIMIT = 16 * len(PIECE)
PIECES_MAX = 1000
"""Of a stream that goes on: whoever takes so many would have taken every one."""


class Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An answer that goes on."""

    def __init__(self) -> None:
        self.given = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        while self.given < PIECES_MAX:
            self.given += 1
            yield PIECE

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True

    def transport(self, status: int = 200) -> httpx.MockTransport:
        return httpx.MockTransport(lambda _: httpx.Response(status, stream=self))

    def was_cut(self) -> bool:
        return self.given <= LIMIT // len(PIECE) + 1 and self.closed


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (rest, manager_rest, operator_client, api, kube_http):
        monkeypatch.setattr(module, "ANSWER_BYTES_MAX", LIMIT)
    return monkeypatch


@pytest.mark.parametrize("status", [200, 500])
def test_the_client_of_commands_stops_at_its_limit_and_says_what_was_too_large(status):
    answer = Endless()
    client = Rest("http://m:8460", "t", transport=answer.transport(status))
    with client, pytest.raises(UnavailableError) as caught:
        client.get("/v1/map")
    assert caught.value.code == "answer_too_large"
    assert f"http://m:8460 to GET /v1/map is larger than {LIMIT} bytes" in str(caught.value)
    assert answer.was_cut()


@pytest.mark.parametrize("status", [200, 500])
async def test_the_csi_driver_s_client_stops_at_its_limit(status):
    answer = Endless()
    client = RestManager("http://m", "t", transport=answer.transport(status))
    with pytest.raises(UnavailableError, match="GET /v1/volumes/1") as caught:
        await client.get_volume("1")
    await client.aclose()
    assert caught.value.code == "answer_too_large"
    assert answer.was_cut()


async def test_the_operator_s_client_tells_of_the_large_answer_and_not_of_the_standby():
    answer = Endless()

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.host == "leader":
            return httpx.Response(200, stream=answer)
        return httpx.Response(503, json={"code": "not_leader", "detail": "a standby"})

    urls = ("http://leader", "http://standby")
    client = ManagerClient(urls, "t", timeout_s=5.0, transport=httpx.MockTransport(handle))
    with pytest.raises(UnavailableError, match="GET /v1/status") as caught:
        await client.get("/v1/status")
    await client.aclose()
    assert caught.value.code == "answer_too_large"
    assert answer.was_cut()


def test_an_answer_is_measured_unpacked():
    packed = gzip.compress(b"0" * (LIMIT + 1))
    assert len(packed) < LIMIT // 10
    headers = {"Content-Encoding": "gzip"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=packed))
    with httpx.Client(transport=transport) as client:
        with pytest.raises(UnavailableError, match="larger"):
            bounded.ask(client, "GET", "http://m/v1/x", bytes_max=LIMIT, within_s=5)
        answer = bounded.ask(client, "GET", "http://m/v1/x", bytes_max=LIMIT + 1, within_s=5)
    assert len(answer.content) == LIMIT + 1


class Dripping(Endless):
    """A piece now and then, for ever: each comes soon enough for a timeout between two."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b" "


async def test_an_answer_that_drips_ends_at_the_deadline_of_the_whole():
    client = ManagerClient(
        ("http://m",), "t", timeout_s=0.1, transport=Dripping().transport()
    )  # fmt: skip
    with pytest.raises(DeadlineError):
        await client.get("/v1/status")
    await client.aclose()


def kube(answer: Endless, status: int = 200) -> api.Kube:
    transport = answer.transport(status)
    return api.Kube(httpx.Client(transport=transport, base_url="http://localhost"))


def test_objects_of_kubernetes_that_are_too_large_are_an_error():
    answer = Endless()
    with pytest.raises(UnavailableError, match="GET /api/v1/nodes") as caught:
        kube(answer).get("/api/v1/nodes")
    assert caught.value.code == "answer_too_large"
    assert answer.was_cut()


def test_a_log_that_is_too_large_is_cut_with_a_remark_and_no_error():
    answer = Endless()
    text = kube(answer).text("/api/v1/namespaces/n/pods/p/log", LIMIT)
    assert text.startswith("x" * LIMIT)
    assert text.endswith(f"\n[cut here: it is larger than {LIMIT} bytes]\n")
    assert len(text) < LIMIT + 100
    assert answer.was_cut()
    whole = httpx.MockTransport(lambda _: httpx.Response(200, text="line\n"))
    client = api.Kube(httpx.Client(transport=whole, base_url="http://localhost"))
    assert client.text("/log", LIMIT) == "line\n"


def log_part(kube_: api.Kube) -> str:
    spec = {"containers": [{"name": "server"}]}
    pod = {"metadata": {"namespace": "n", "name": "p"}, "spec": spec}
    (part,) = kube_parts.log_parts(kube_, [pod], 60)
    return str(part.read())


def test_a_bundle_says_of_a_log_that_its_older_lines_are_missing(small):
    small.setattr(kube_parts, "LOG_LINES_MAX", 2)
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, text="a\n" * (2 if len(asked) == 1 else 1))

    client = api.Kube(
        httpx.Client(transport=httpx.MockTransport(handle), base_url="http://localhost")
    )
    assert log_part(client) == "[older lines are left out: these are the last 2]\na\na\n"
    assert log_part(client) == "a\n"
    query = asked[0].url.params
    assert query["tailLines"] == "2"
    assert int(query["limitBytes"]) == kube_parts.LOG_BYTES_MAX + 1


def test_a_bundle_holds_a_long_list_up_to_its_limit_and_says_so(small):
    small.setattr(parts, "ITEMS_MAX", 2)
    assert parts.listed({"n": n} for n in range(2)) == {"items": [{"n": 0}, {"n": 1}]}
    cut = parts.listed({"n": n} for n in range(5))
    assert cut == {"cut": "there are more than these 2", "items": [{"n": 0}, {"n": 1}]}


class Server:
    """An API server whose lists do not end: in bytes, or in pages."""

    def __init__(self) -> None:
        self.pages = 0
        self.sent = 0

    async def large(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(PIECES_MAX * 100):
            await answer.write(PIECE)
            self.sent += 1
        return answer

    async def page(self, _: web.Request) -> web.Response:
        self.pages += 1
        return web.json_response({"items": [], "metadata": {"continue": str(self.pages)}})


@pytest.fixture
async def served():
    server, app = Server(), web.Application()
    app.router.add_get("/large", server.large)
    app.router.add_get("/pages", server.page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with connected(20.0, f"http://{host}:{port}") as client:
        yield server, client
    await runner.cleanup()


async def test_the_operator_reads_no_answer_of_kubernetes_beyond_its_limit(served):
    server, client = served
    with pytest.raises(KubeError, match="GET /large: the answer is larger than") as caught:
        await client.get("/large")
    assert caught.value.code == "answer_too_large"
    assert server.sent < PIECES_MAX * 100, "the connection was closed on it"


async def test_a_list_of_kubernetes_without_an_end_is_given_up(served, small):
    server, client = served
    small.setattr(kube_http, "PAGES_MAX", 3)
    with pytest.raises(KubeError, match="does not end") as caught:
        _ = [item async for item in client.items("/pages")]
    assert caught.value.code == "bad_answer"
    assert server.pages == 3


def test_a_page_of_metrics_that_is_too_large_is_a_part_that_failed(small):
    made = httpx.Client
    answer = Endless()
    small.setattr(local_parts, "METRICS_BYTES_MAX", LIMIT)
    small.setattr(
        httpx, "Client", lambda **_: made(transport=answer.transport())
    )  # fmt: skip
    with pytest.raises(UnavailableError, match="larger"):
        local_parts._metrics("http://127.0.0.1:1/metrics")()
    assert answer.was_cut()


def test_what_kubectl_says_is_not_read_beyond_its_limit(small, tmp_path):
    program = tmp_path / "kubectl"
    program.write_text('#!/bin/sh\nhead -c "$2" /dev/zero | tr "\\0" x\n')
    program.chmod(0o700)
    small.setattr(kubectl, "OUTPUT_BYTES_MAX", LIMIT)
    client = kubectl.Kubectl(Target(), str(program))
    assert client.run(["say", str(LIMIT)]) == "x" * LIMIT
    with pytest.raises(UnavailableError, match="kubectl say is larger") as caught:
        client.run(["say", str(LIMIT + 1)])
    assert caught.value.code == "answer_too_large"
