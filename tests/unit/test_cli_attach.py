"""Attach and detach of the command line, against a block daemon on a socket."""

# ruff: noqa: N802 - the interface definition names the methods

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from drystone_cli import attachments, context
from drystone_cli.context import Cluster
from drystone_common.errors import ConflictError, DrystoneError, NotFoundError, UnavailableError
from drystone_storaged.agent.rest import Rest
from drystone_storaged.agent.status import status_of, trailing_of
from drystone_storaged.proto import block_pb2, block_pb2_grpc

READY_S = 10.0  # a server of one method is there in milliseconds


class Daemon(block_pb2_grpc.BlockServicer):
    """Answers, or fails as it is told; remembers what was asked."""

    def __init__(self, error: DrystoneError | None = None, *, has: bool = True) -> None:
        self.error = error
        self.has = has
        self.detached: list[str] = []

    async def Info(self, _request, _context):
        return block_pb2.InfoResponse(node="block-1", ready=True)

    async def Attach(self, request, context):
        await self._maybe_fail(context)
        return block_pb2.Attachment(
            volume_id=request.volume_id, generation=4, device="/dev/x", nbd_uri="nbd+unix:///x"
        )

    async def Detach(self, request, context):
        await self._maybe_fail(context)
        self.detached.append(request.volume_id)
        return block_pb2.DetachResponse()

    async def List(self, request, _context):
        attachment = block_pb2.Attachment(volume_id=request.volume_id)
        return block_pb2.ListResponse(attachments=[attachment] if self.has else [])

    async def Resize(self, _request, context):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not asked here")

    Stats = Resize

    async def _maybe_fail(self, context):
        if self.error:
            await context.abort(status_of(self.error), self.error.message, trailing_of(self.error))


@contextmanager
def serving(daemon: Daemon, path: Path) -> Iterator[None]:
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def work() -> None:
        server = grpc.aio.server()
        block_pb2_grpc.add_BlockServicer_to_server(daemon, server)
        server.add_insecure_port(f"unix://{path}")
        await server.start()
        ready.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: loop.run_until_complete(work()))
    thread.start()
    assert ready.wait(READY_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster("http://m", "t", {"block-1": str(tmp_path / "b.sock")})


@pytest.fixture
def manager(monkeypatch):
    """A manager with the volume db, published to ``nodes``."""
    state: dict[str, list[str]] = {"nodes": ["block-1"], "unpublished": [], "known": ["node-9"]}

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.startswith("/v1/nodes/"):
            known = path.rpartition("/")[2] in state["known"]
            missing = {"code": "node_not_found", "detail": "no"}
            return httpx.Response(200 if known else 404, json={} if known else missing)
        if path.endswith("/unpublish"):
            state["unpublished"].append(path)
        publications = [{"node": node, "mode": "rw"} for node in state["nodes"]]
        volume = {"id": "1" * 16, "name": "db", "publications": publications, "attachments": []}
        return httpx.Response(200, json=volume)

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(context, "Rest", client(transport))
    return state


def client(transport: httpx.MockTransport):
    return lambda url, token, **more: Rest(url, token, transport=transport, **more)


def attach(cluster: Cluster) -> dict[str, object]:
    return attachments.attach(cluster, "db", None, "auto", read_only=False)


def test_an_attach_prints_volume_generation_node_device_and_address(cluster, manager):
    with serving(Daemon(), Path(cluster.block["block-1"])):
        assert attach(cluster) == {
            "volume": "db", "generation": 4, "node": "block-1", "device": "/dev/x",
            "nbd_uri": "nbd+unix:///x",
        }  # fmt: skip


def test_a_daemon_that_does_not_answer_is_named_with_the_next_step(cluster, manager):
    with pytest.raises(UnavailableError) as caught:
        attach(cluster)
    assert caught.value.code == "block_silent"
    assert "block-1" in caught.value.message
    assert "drystone local start block-1" in (caught.value.hint or "")


def test_what_the_daemon_says_itself_is_not_taken_for_silence(cluster, manager):
    daemon = Daemon(UnavailableError("no majority", hint="wait"))
    with serving(daemon, Path(cluster.block["block-1"])), pytest.raises(UnavailableError) as caught:
        attach(cluster)
    assert "no majority" in caught.value.message
    assert caught.value.hint == "wait"


@pytest.mark.parametrize("code", ["volume_fenced", "attached_otherwise"])
def test_a_conflict_at_the_node_names_the_command_that_ends_it(cluster, manager, code):
    daemon = Daemon(ConflictError("no", code=code, hint="detach it here"))
    with serving(daemon, Path(cluster.block["block-1"])), pytest.raises(ConflictError) as caught:
        attach(cluster)
    assert caught.value.code == code
    assert "`drystone volume detach db --node block-1`" in (caught.value.hint or "")


def test_a_volume_of_another_node_names_that_node(cluster, monkeypatch):
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(409, json={"code": "volume_published_elsewhere", "detail": "no"})
        publications = [{"node": "block-7", "mode": "rw"}]
        volume = {"id": "1" * 16, "name": "db", "publications": publications, "attachments": []}
        return httpx.Response(200, json=volume)

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(context, "Rest", client(transport))
    with pytest.raises(ConflictError) as caught:
        attach(cluster)
    assert "`drystone volume detach db --node block-7`" in (caught.value.hint or "")


def test_a_detach_without_a_node_takes_it_from_all_that_have_it(cluster, manager):
    daemon = Daemon()
    with serving(daemon, Path(cluster.block["block-1"])):
        assert attachments.detach(cluster, "db", None, force=False) == ["block-1"]
    assert daemon.detached == ["1" * 16]
    assert len(manager["unpublished"]) == 1


def test_a_detach_removes_the_dead_devices_of_nodes_that_were_fenced_before(
    cluster, manager, tmp_path, capsys
):
    sockets = {name: str(tmp_path / f"{name}.sock") for name in ("block-1", "block-2", "block-3")}
    both = Cluster(cluster.url, cluster.token, sockets)
    owner, fenced = Daemon(), Daemon()
    with (
        serving(owner, Path(sockets["block-1"])),
        serving(fenced, Path(sockets["block-2"])),
    ):
        assert attachments.detach(both, "db", None, force=False) == ["block-1", "block-2"]
    assert owner.detached == fenced.detached == ["1" * 16]
    assert "block-3 may keep a dead device" in capsys.readouterr().err
    assert len(manager["unpublished"]) == 1, "who is not published needs no fence"


def test_a_dead_device_in_use_does_not_fail_the_detach(cluster, manager, tmp_path, capsys):
    sockets = {**cluster.block, "block-2": str(tmp_path / "b2.sock")}
    busy = Daemon(ConflictError("it is mounted", code="device_busy"))
    with (
        serving(Daemon(), Path(sockets["block-1"])),
        serving(busy, Path(sockets["block-2"])),
    ):
        both = Cluster(cluster.url, cluster.token, sockets)
        assert attachments.detach(both, "db", None, force=False) == ["block-1"]
    assert "it is mounted" in capsys.readouterr().err


def test_a_local_node_is_asked_although_the_record_does_not_name_it(cluster, manager):
    """It may still have the dead device of an attachment that was fenced."""
    manager["nodes"] = []
    daemon = Daemon()
    with serving(daemon, Path(cluster.block["block-1"])):
        assert attachments.detach(cluster, "db", "block-1", force=False) == ["block-1"]
        daemon.has = False
        assert attachments.detach(cluster, "db", "block-1", force=False) == []
    assert daemon.detached == ["1" * 16] * 2


def test_a_node_that_nobody_knows_is_an_error_and_one_without_the_volume_is_told(cluster, manager):
    with pytest.raises(NotFoundError):
        attachments.detach(cluster, "db", "nobody", force=False)
    assert attachments.detach(cluster, "db", "node-9", force=False) == []
    assert manager["unpublished"] == []


def test_a_forced_detach_does_not_need_the_daemon(cluster, manager, capsys):
    assert attachments.detach(cluster, "db", None, force=True) == ["block-1"]
    assert "block-1 does not answer: it is fenced" in capsys.readouterr().err
    assert len(manager["unpublished"]) == 1
