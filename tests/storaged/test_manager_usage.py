"""`used` of a volume: the sum over its groups' first in-sync drives, while they are connected."""

from __future__ import annotations

from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import GIB, peers, until


async def test_use_is_summed_over_drives_and_forgotten_with_a_session(mgr):
    async with peers(mgr, 3, 0) as made:
        body = {"name": "v", "size": GIB}
        number = (await mgr.http.post("/v1/volumes", json=body)).json()["id"]
        volume = await mgr.services.volumes.find(number)
        layer = volume.chain[0].layer

        async def used():
            return (await mgr.http.get(f"/v1/volumes/{number}")).json()["used"]

        assert await used() is None
        for peer, mapped in zip(made, (4096, 8192, 0), strict=True):
            usage = pb.LayerUsage(drive=peer.drive, layer=layer, mapped_bytes=mapped)
            status = pb.Status(layers=[usage], layers_complete=True)
            await peer.outbox.put(pb.SessionUp(status=status))

        async def is_summed():
            return await used() == 12288

        await until(is_summed, "the sum")
        await made[1].disconnect()

        async def is_less():
            return await used() == 4096

        await until(is_less, "the figures of a session that ended are gone")
