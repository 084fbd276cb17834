"""The lack of a session is no proof that a drive's holder is gone."""

from __future__ import annotations

import asyncio
from uuid import UUID

import grpc
import pytest

from drystone_storaged.manager import services as parts
from drystone_storaged.manager.probe import Liveness
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import Peer, manager, peers, until


class Everybody:
    """A prober that finds the same at every address."""

    def __init__(self, found: Liveness) -> None:
        self.found = found

    async def probe(self, address: str) -> Liveness:
        return self.found


def blind(mgr, found: Liveness = Liveness.SILENT) -> Everybody:
    """Nobody's death is proven by a look at an address."""
    prober = Everybody(found)
    for place in (mgr.services.judge._deps, mgr.services.env):
        object.__setattr__(place, "prober", prober)
    return prober


async def of_two_servers(path) -> list[Peer]:
    """The peers of a cluster whose manager has ended while they live."""
    async with manager(path) as mgr, peers(mgr, 2, 0) as made:
        blind(mgr)
        return list(made)


async def returned(mgr, old: Peer) -> Peer:
    """The same server at a new manager, without a session yet."""
    peer = Peer(mgr, old.name, "server", uuid=old.uuid, metadata=old.metadata)
    await peer.register()
    return peer


async def take(peer: Peer, holder: Peer, nonce: int) -> None:
    """Open the holder's drive here, as a server does that finds a shared disk."""
    name, peer.name = peer.name, holder.name  # the serial is the disk's
    try:
        await peer.open_drive(nonce, 7, holder.uuid[::-1])
    finally:
        peer.name = name


async def code_of(work) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return dict(caught.value.trailing_metadata())["drystone-code"]


async def test_another_server_waits_for_the_holder_after_an_election(tmp_path, monkeypatch):
    one, two = await of_two_servers(tmp_path)
    async with manager(tmp_path) as mgr:
        blind(mgr)
        other = await returned(mgr, two)
        await other.connect()
        assert await code_of(take(other, one, 8)) == "drive_held"
        forgotten = await mgr.http.delete("/v1/nodes/node-1?force=true")
        assert (forgotten.status_code, forgotten.json()["code"]) == (409, "node_in_use")
        assert "some seconds" in forgotten.json()["hint"]
        # It did not come in all the time that it had.
        monkeypatch.setattr(parts, "COME_BACK_S", 0.0)
        await take(other, one, 8)
        await other.close()


async def test_the_holder_itself_does_not_wait(tmp_path):
    one, _ = await of_two_servers(tmp_path)
    async with manager(tmp_path) as mgr:
        blind(mgr)
        same = await returned(mgr, one)
        await same.open_drive(8, 7)
        await same.close()


async def came_and_went(mgr, one: Peer, two: Peer) -> tuple[Peer, Peer]:
    """The holder's connection broke under a manager that leads for long."""
    same, other = await returned(mgr, one), await returned(mgr, two)
    await same.connect()
    assert await code_of(take(other, one, 8)) == "drive_held"
    await same.disconnect()
    uuid = same.uuid.hex()
    await until(lambda: mgr.services.sessions.get(("server", uuid)) is None, "its end")
    return same, other


async def test_a_holder_that_is_cut_off_has_the_time_to_come_back(tmp_path, monkeypatch):
    one, two = await of_two_servers(tmp_path)
    async with manager(tmp_path) as mgr:
        blind(mgr)
        same, other = await came_and_went(mgr, one, two)
        assert await code_of(take(other, one, 8)) == "drive_held"
        monkeypatch.setattr(parts, "COME_BACK_S", 0.0)
        await take(other, one, 8)
        await asyncio.gather(same.close(), other.close())


async def test_a_holder_that_is_cut_off_and_listens_is_alive_however_long_it_takes(
    tmp_path, monkeypatch
):
    one, two = await of_two_servers(tmp_path)
    async with manager(tmp_path) as mgr:
        prober = blind(mgr, Liveness.LISTENING)
        same, other = await came_and_went(mgr, one, two)
        monkeypatch.setattr(parts, "COME_BACK_S", 0.0)
        assert await code_of(take(other, one, 8)) == "drive_held"
        prober.found = Liveness.SILENT
        await take(other, one, 8)
        await asyncio.gather(same.close(), other.close())


async def test_a_holder_whose_address_refuses_is_not_waited_for(tmp_path):
    one, two = await of_two_servers(tmp_path)
    async with manager(tmp_path) as mgr:
        prober = blind(mgr)
        same, other = await came_and_went(mgr, one, two)
        prober.found = Liveness.REFUSED
        await take(other, one, 8)
        await asyncio.gather(same.close(), other.close())


async def test_what_listens_at_the_callers_own_address_is_the_caller(tmp_path, monkeypatch):
    one, two = await of_two_servers(tmp_path)
    async with manager(tmp_path) as mgr:
        blind(mgr, Liveness.LISTENING)
        monkeypatch.setattr(parts, "COME_BACK_S", 0.0)
        other = await returned(mgr, two)
        drive = await mgr.services.drives.find(str(UUID(bytes=one.uuid[::-1])))

        async def listen() -> str:
            return drive.addr

        monkeypatch.setattr(other, "listen", listen)
        await take(other, one, 8)
        await other.close()


async def test_a_holder_whose_end_was_reported_is_not_waited_for(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, 2, 0) as made:
        blind(mgr)
        await made[0].ready(pb.DRIVE_STATE_CLOSED, "the server was stopped")
        one, two = made
    async with manager(tmp_path) as mgr:
        blind(mgr)
        other = await returned(mgr, two)
        await take(other, one, 8)
        await other.close()
