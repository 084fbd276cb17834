"""etcd does what a manager asks and the answer never comes: whoever repeats the call finds it done.

A proxy stands between manager and etcd, passes calls on, and keeps the answer of a transaction
that writes a certain key.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from drystone_storaged.proto import control_pb2 as pb
from drystone_storaged.proto import etcd_pb2
from tests.storaged.etcd_server import Etcd
from tests.storaged.manager_env import GIB, insync, peers, until
from tests.storaged.managers_env import cluster

TXN = "/etcdserverpb.KV/Txn"


class Proxy(grpc.GenericRpcHandler):
    """Every method of etcd, as bytes."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self.lose = b""
        """Part of a key: the answer to the next transaction that writes it is lost."""
        self.lost = 0

    def service(self, handler_call_details):
        method = handler_call_details.method

        async def forward(requests, context):
            try:
                async for answer in self._answers(method, requests):
                    yield answer
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")

        return grpc.stream_stream_rpc_method_handler(forward)

    async def _answers(self, method: str, requests: Any) -> AsyncIterator[bytes]:
        if method == TXN:
            async for request in requests:
                call: Any = self._channel.unary_unary(method)
                yield self._kept(request, await call(request))
            return
        there: Any = self._channel.stream_stream(method)
        async for answer in there(requests):
            yield answer

    def _kept(self, request: bytes, answer: bytes) -> bytes:
        if not self._loses(request):
            return answer
        self.lost += 1
        nothing = grpc.aio.Metadata()
        code, why = grpc.StatusCode.UNAVAILABLE, "the answer was lost"
        raise grpc.aio.AioRpcError(code, nothing, nothing, why)

    def _loses(self, request: bytes) -> bool:
        written = [op.request_put.key for op in etcd_pb2.TxnRequest.FromString(request).success]
        if not self.lose or not any(self.lose in key for key in written):
            return False
        self.lose = b""
        return True

    async def close(self) -> None:
        await self._channel.close()


@contextlib.asynccontextmanager
async def between(etcd: Etcd) -> AsyncIterator[tuple[Proxy, str]]:
    proxy, server = Proxy(etcd.endpoints[0]), grpc.aio.server()
    server.add_generic_rpc_handlers((proxy,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield proxy, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
        await proxy.close()


pytestmark = pytest.mark.usefixtures("patient_leases")


@pytest.fixture
async def lossy(tmp_path, etcd):
    async with (
        between(etcd) as (proxy, address),
        cluster(tmp_path, (address,), ("m1",)) as made,
        peers(await made.leader(), 3, 1) as there,
    ):
        yield proxy, made.managers["m1"], there


async def test_a_created_volume_is_there_once(lossy):
    proxy, manager, _ = lossy
    proxy.lose = b"/vol/"
    body = {"name": "v", "size": GIB}
    first = await manager.http.post("/v1/volumes", json=body)
    assert (first.status_code, first.json()["code"]) == (503, "store_unavailable")
    again = await manager.http.post("/v1/volumes", json=body)
    assert again.status_code == 200, "it was made the first time"
    listed = (await manager.http.get("/v1/volumes")).json()["items"]
    assert [v["id"] for v in listed] == [again.json()["id"]]
    assert proxy.lost == 1


async def test_an_attach_and_a_detach_are_done_once(lossy):
    proxy, manager, there = lossy
    client = there[3]
    volume = (await manager.http.post("/v1/volumes", json={"name": "v", "size": GIB})).json()
    await manager.http.post("/v1/volumes/v/publish", json={"node": "block-1"})
    number = int(volume["id"], 16)
    request = pb.AttachRequest(volume=number, mode=pb.MODE_READ_WRITE, nonce=5)
    proxy.lose = b"/vol/"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call("Attach", request)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, "worth a repetition"
    attached = await client.call("Attach", request)
    assert attached.generation == 1
    activate = pb.ActivateRequest(volume=number, generation=1, nonce=5)
    proxy.lose = b"/vol/"
    with pytest.raises(grpc.aio.AioRpcError):
        await client.call("Activate", activate)
    await client.call("Activate", activate)
    detach = pb.DetachRequest(volume=number, nonce=5, clean=True)
    proxy.lose = b"/vol/"
    with pytest.raises(grpc.aio.AioRpcError):
        await client.call("Detach", detach)
    await client.call("Detach", detach)
    shown = (await manager.http.get("/v1/volumes/v")).json()
    assert (shown["attachments"], shown["clean"], shown["generation"]) == ([], True, 1)
    assert proxy.lost == 3


async def test_a_fence_is_done_once_and_proven(lossy):
    proxy, manager, there = lossy
    client = there[3]
    volume = (await manager.http.post("/v1/volumes", json={"name": "v", "size": GIB})).json()
    await manager.http.post("/v1/volumes/v/publish", json={"node": "block-1"})
    request = pb.AttachRequest(volume=int(volume["id"], 16), mode=pb.MODE_READ_WRITE, nonce=5)
    await client.call("Attach", request)
    body = {"nonce": f"{5:016x}"}
    proxy.lose = b"/vol/"
    assert (await manager.http.post("/v1/volumes/v/fence", json=body)).status_code == 503
    assert (await manager.http.post("/v1/volumes/v/fence", json=body)).status_code == 200
    shown = (await manager.http.get("/v1/volumes/v")).json()
    assert (shown["generation"], shown["attachments"], shown["fencing"]) == (2, [], False)


@pytest.mark.parametrize("key", [b"/map/", b"/drive/"])
async def test_a_drop_is_done_once(lossy, key):
    proxy, manager, there = lossy
    client, victim = there[3], there[2]
    epochs = [pg.epoch for pg in (await manager.services.feed.read()).pgs().values()]
    proxy.lose = key
    await victim.die()

    async def dropped() -> bool:
        return all(victim.drive not in drives for drives in insync(await client.map()))

    await until(dropped, "the drop")
    assert proxy.lost == 1
    pgs = (await manager.services.feed.read()).pgs().values()
    assert [pg.epoch for pg in pgs] == [epoch + 1 for epoch in epochs]


async def test_an_election_is_won_once(tmp_path, etcd):
    async with between(etcd) as (proxy, address):
        proxy.lose = b"/leader"
        async with cluster(tmp_path, (address,), ("m1",)) as made:
            manager = await made.leader()
            assert proxy.lost == 1
            found = (await manager.http.get("/v1/health")).json()
            assert (found["role"], found["leader_name"]) == ("leader", "m1")
