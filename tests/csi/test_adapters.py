"""The real adapters against peers that answer well, badly and not at all."""

# ruff: noqa: N802 - the names of the interface
from __future__ import annotations

import json

import grpc
import httpx
import pytest

from drystone_common.errors import (
    ConflictError,
    DeadlineError,
    DrystoneError,
    NotFoundError,
    UnavailableError,
)
from drystone_csi.block_rpc import GrpcBlock
from drystone_csi.manager_rest import RestManager
from drystone_csi.model import NEVER, AccessMode, Attacher, AttachState, Content, ContentState
from drystone_csi.status import CODE_METADATA
from drystone_storaged.proto import block_pb2, block_pb2_grpc

VOLUME = {
    "id": "00000000000000ab",
    "name": "csi-x",
    "size": 4096,
    "pool": "default",
    "content": {"state": "formatting", "fs": "ext4", "nonce": "n"},
    "attributes": {"csi.name": "x"},
    "publications": [{"node": "block-1", "mode": "rw"}],
    "field_of_a_newer_version": 1,
}


class Peer:
    """Answers every request with the same thing and remembers what was asked."""

    def __init__(self, status=200, body=None, raises=None):
        self.status, self.body, self.raises = status, body, raises
        self.requests: list[httpx.Request] = []

    def __call__(self, request):
        self.requests.append(request)
        if self.raises:
            raise self.raises
        return httpx.Response(self.status, json=self.body)

    def manager(self) -> RestManager:
        return RestManager("http://m", "tok", transport=httpx.MockTransport(self))


async def test_a_volume_is_read_and_unknown_fields_are_ignored():
    peer = Peer(body=VOLUME)
    volume = await peer.manager().get_volume("00000000000000ab")
    assert volume.content == Content(ContentState.FORMATTING, "ext4", "n")
    assert volume.publications[0].mode is AccessMode.READ_WRITE
    assert peer.requests[0].headers["Authorization"] == "Bearer tok"


async def test_content_is_changed_by_compare_and_set():
    peer = Peer(body=VOLUME)
    await peer.manager().set_content("1", NEVER, Content(ContentState.FS, "xfs"))
    assert json.loads(peer.requests[0].content) == {
        "expect": {"state": "never"},
        "to": {"state": "fs", "fs": "xfs"},
    }


async def test_a_problem_becomes_the_error_that_the_manager_meant():
    problem = {"title": "t", "detail": "in use", "code": "volume_in_use", "status": 409}
    with pytest.raises(ConflictError, match="in use") as caught:
        await Peer(409, problem).manager().delete_volume("1")
    assert caught.value.code == "volume_in_use"


async def test_a_problem_with_a_kind_is_rebuilt_whole():
    problem = {"kind": "not_found", "code": "pool_not_found", "detail": "no pool x", "hint": "h"}
    with pytest.raises(NotFoundError) as caught:
        await Peer(404, problem).manager().capacity("x")
    assert (caught.value.message, caught.value.hint) == ("no pool x", "h")


async def test_deleting_and_unpublishing_what_is_gone_succeeds():
    manager = Peer(404, {"code": "volume_not_found"}).manager()
    await manager.delete_volume("1")
    await manager.unpublish("1", "block-1")


async def test_nothing_is_deleted_when_the_managers_have_become_another_cluster():
    peer = Peer(body={"uuid": "11111111-2222-3333-4444-555555555555"})
    manager = peer.manager()
    await manager.cluster_uuid()
    peer.body = {"uuid": "99999999-2222-3333-4444-555555555555"}
    with pytest.raises(ConflictError) as caught:
        await manager.delete_volume("1")
    assert caught.value.code == "wrong_cluster"
    assert {r.method for r in peer.requests} == {"GET"}


@pytest.mark.parametrize("body", [[], {"id": "zz"}, None, "text"])
async def test_an_answer_that_makes_no_sense_is_unavailable(body):
    with pytest.raises(UnavailableError) as caught:
        await Peer(body=body).manager().get_volume("1")
    assert caught.value.code == "bad_answer"


@pytest.mark.parametrize("body", [["x"], "<html>", {"code": 7}, {"kind": "unheard-of"}])
async def test_an_error_page_of_somebody_else_is_still_an_error(body):
    with pytest.raises(DrystoneError):
        await Peer(502, body).manager().get_volume("1")


async def test_no_manager_is_unavailable_and_a_slow_one_a_deadline():
    with pytest.raises(UnavailableError, match="go on without"):
        await Peer(raises=httpx.ConnectError("refused")).manager().get_volume("1")
    slow = Peer(raises=httpx.ReadTimeout("slow")).manager()
    with pytest.raises(DeadlineError):
        await slow.get_volume("1")
    assert not await slow.healthy()


class BlockServer(block_pb2_grpc.BlockServicer):
    """Answers one attachment, or an error."""

    async def Attach(self, request, context):
        if request.mode == block_pb2.MODE_READ_ONLY:
            context.set_trailing_metadata(((CODE_METADATA, "not_published"),))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not for this node")
        return block_pb2.Attachment(
            volume_id=request.volume_id,
            mode=request.mode,
            attacher=block_pb2.ATTACHER_FUSE,
            state=block_pb2.STATE_ACTIVE,
            generation=3,
            size_bytes=4096,
            device="/dev/loop9",
            nbd_uri="nbd+unix:///x",
        )

    async def List(self, request, context):
        return block_pb2.ListResponse()


@pytest.fixture
async def block(tmp_path):
    path = tmp_path / "block.sock"
    server = grpc.aio.server()
    # What the tests do not call is left to the generated base class.
    servicer = BlockServer()  # type: ignore[abstract]
    block_pb2_grpc.add_BlockServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    client = GrpcBlock(path)
    yield client
    await client.aclose()
    await server.stop(None)


async def test_an_attachment_comes_over_the_socket(block):
    found = await block.attach("1", AccessMode.READ_WRITE, Attacher.AUTO)
    assert (found.device, found.generation) == ("/dev/loop9", 3)
    assert (found.attacher, found.state) == (Attacher.FUSE, AttachState.ACTIVE)
    assert await block.attached("1") is None


async def test_an_error_of_the_block_daemon_keeps_its_kind_and_code(block):
    with pytest.raises(ConflictError, match="not for this node") as caught:
        await block.attach("1", AccessMode.READ_ONLY, Attacher.AUTO)
    assert caught.value.code == "not_published"


async def test_no_block_daemon_is_unavailable(tmp_path):
    client = GrpcBlock(tmp_path / "nothing.sock")
    with pytest.raises(UnavailableError):
        await client.info()
    await client.aclose()
