from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from drystone_storaged.cluster import pgmap
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import GIB, Peer, insync, manager, peers, until


def code_of(error: grpc.aio.AioRpcError) -> str:
    return dict(error.trailing_metadata()).get("drystone-code", "")


async def refused(awaitable) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return code_of(caught.value)


async def new_volume(mgr, node="block-1", mode="rw") -> int:
    answer = await mgr.http.post("/v1/volumes", json={"name": "v", "size": GIB})
    volume = answer.json()["id"]
    answer = await mgr.http.post(f"/v1/volumes/{volume}/publish", json={"node": node, "mode": mode})
    assert answer.status_code == 200, answer.text
    return int(volume, 16)


async def test_a_registration_binds_and_gives_keys_by_role(mgr):
    async with peers(mgr, 1, 1) as (server, client):
        assert len((await server.register()).master_key) == 32
        answer = await client.register()
        assert answer.master_key == b""
        assert len(answer.role_key) == 32


async def test_a_stranger_is_refused_everywhere(mgr):
    peer = Peer(mgr, "node-1", "server")
    assert await refused(peer.register("no such token")) == "join_token_invalid"
    for method, request in (
        ("ReadMap", pb.ReadMapRequest()),
        ("OpenDrive", pb.OpenDriveRequest()),
        ("Attach", pb.AttachRequest()),
        ("ReportSilence", pb.ReportSilenceRequest()),
    ):
        assert await refused(peer.call(method, request)) == "unauthenticated"
    peer.metadata = (("authorization", "Bearer dsc1.server." + "0" * 32 + ".1." + "0" * 64),)
    assert await refused(peer.call("ReadMap", pb.ReadMapRequest())) == "unauthenticated"
    await peer.close()


async def test_a_client_may_not_do_what_servers_do(mgr):
    async with peers(mgr, 0, 1) as (client,):
        assert await refused(client.call("OpenDrive", pb.OpenDriveRequest())) == "wrong_role"
        assert (
            await refused(client.call("ReadGenerations", pb.ReadGenerationsRequest()))
            == "wrong_role"
        )


async def test_two_live_processes_of_one_node_are_refused(mgr):
    async with peers(mgr, 1, 0) as (server,):
        twin = Peer(mgr, "node-1", "server", uuid=server.uuid, metadata=server.metadata)
        await twin.connect(instance=2)
        assert twin.session is not None
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await twin.session
        assert code_of(caught.value) == "node_already_connected"
        await twin.close()


async def test_a_map_stream_gives_the_map_and_then_each_newer_one(mgr):
    async with peers(mgr, 3, 1) as made:
        client = made[-1]
        stream = client.stub.MapStream(pb.MapStreamRequest(), metadata=client.metadata)
        first: Any = await stream.read()
        decoded = pgmap.decode_map(first.map)
        assert decoded.revision == first.revision
        assert len(decoded.drives) == 3
        assert all(len(members) == 3 for members in insync(decoded))
        await made[0].ready(pb.DRIVE_STATE_CLOSED)
        async with asyncio.timeout(20):
            while all(1 in members for members in insync(pgmap.decode_map(first.map))):
                newer: Any = await stream.read()
                assert newer.revision > first.revision
                first = newer
        stream.cancel()


async def test_read_map_saves_the_bytes_for_who_is_current(mgr):
    async with peers(mgr, 1, 0) as (server,):
        full = await server.call("ReadMap", pb.ReadMapRequest())
        again = await server.call("ReadMap", pb.ReadMapRequest(have_revision=full.revision))
        assert (again.revision, again.map) == (full.revision, b"")


async def test_a_killed_server_is_dropped_at_once_and_resyncs_when_it_is_back(mgr):
    async with peers(mgr, 3, 1) as made:
        victim, client = made[0], made[-1]
        await victim.die()

        async def dropped():
            return all(members == {2, 3} for members in insync(await client.map()))

        await until(dropped, "the drop of a dead server")
        status = await mgr.status()
        assert status["health"] == "warning"
        assert status["pgs"]["degraded"] == status["pgs"]["total"] == 64
        await victim.connect(instance=2)
        await victim.open_drive(nonce=8, previous=7)

        async def joining():
            shards = (await client.map()).pools[0].shards
            records = [r for s in shards for r in pgmap.decode_shard(s)]
            self_joined = all(r.joiner(1) is not None for r in records)
            return (
                [pb.Pg(pool=1, pg=i, epoch=r.epoch) for i, r in enumerate(records)]
                if (self_joined)
                else None
            )

        await until(joining, "the join")
        request = pb.CopyCompleteRequest(drive=1, nonce=8, pgs=await joining())
        done = await victim.call("CopyComplete", request)
        assert not done.refused
        assert all(members == {1, 2, 3} for members in insync(await client.map()))
        assert (await mgr.status())["pgs"]["in_sync"] == 64


async def test_a_lost_session_of_a_listening_server_drops_nothing(mgr):
    async with peers(mgr, 3, 1) as made:
        await made[0].disconnect()
        await until(
            lambda: mgr.services.sessions.get(("server", made[0].uuid.hex())) is None, "the end"
        )
        await mgr.services.judge.check_process(made[0].uuid.hex())
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_a_node_silent_to_a_majority_is_dropped_after_the_promises(mgr):
    async with peers(mgr, 3, 1) as made:
        silent = made[0].uuid
        for voter in made[1:3]:
            await voter.call("ReportSilence", pb.ReportSilenceRequest(silent=[silent]))

        async def dropped():
            return all(members == {2, 3} for members in insync(await made[-1].map()))

        await until(dropped, "the drop of a silent node")
        promised = [c for p in made[1:3] for c in p.commands if c.WhichOneof("kind") == "promise"]
        assert len(promised) >= 2
        last = lambda: [m for m in made[1].messages if m.WhichOneof("kind") == "suspects"][-1]  # noqa: E731
        await until(lambda: not last().suspects.suspects, "the end of the suspicion")


async def test_a_node_that_is_heard_is_not_dropped(mgr):
    async with peers(mgr, 3, 1) as made:
        silent = made[0].uuid
        made[1].heard.add(silent)
        for voter in made[1:3]:
            await voter.call("ReportSilence", pb.ReportSilenceRequest(silent=[silent]))
        lists = lambda: [m for m in made[2].messages if m.WhichOneof("kind") == "suspects"]  # noqa: E731
        await until(lambda: any(m.suspects.suspects for m in lists()), "the suspicion")
        await until(lambda: not lists()[-1].suspects.suspects, "its withdrawal")
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_one_voter_alone_drops_nobody(mgr):
    async with peers(mgr, 3, 1) as made:
        report = pb.ReportSilenceRequest(silent=[made[0].uuid])
        await made[1].call("ReportSilence", report)
        assert mgr.services.silence._running == {}
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_a_client_alone_is_not_believed(mgr):
    async with peers(mgr, 3, 1) as made:
        client = made[-1]
        report = pb.ReportFailureRequest(drive=1, kind=pb.FAILURE_KIND_STALL, drive_nonce=7)
        await client.call("ReportFailure", report)
        await until(
            lambda: any(c.WhichOneof("kind") == "probe" for c in made[0].commands), "the probe"
        )
        # What remains beside the judgement is the REST server.
        await until(lambda: len(mgr.services.jobs) == 1, "the judgement")
        assert all(members == {1, 2, 3} for members in insync(await client.map()))


async def test_a_hung_drive_is_quiesced_and_dropped(mgr):
    async with peers(mgr, 3, 1) as made:
        victim, client = made[0], made[-1]
        answer = victim._answer

        def hung(command):
            result = answer(command)
            if command.WhichOneof("kind") == "probe":
                result.probe.oldest_io_us = 2_000_000
            return result

        victim._answer = hung  # type: ignore[method-assign]
        report = pb.ReportFailureRequest(drive=1, kind=pb.FAILURE_KIND_STALL, drive_nonce=7)
        await client.call("ReportFailure", report)

        async def dropped():
            return all(members == {2, 3} for members in insync(await client.map()))

        await until(dropped, "the drop of a hung drive")
        kinds = [c.WhichOneof("kind") for c in victim.commands]
        assert kinds.index("quiesce") > kinds.index("probe")


async def test_the_last_copy_that_leaves_is_refused(mgr):
    async with peers(mgr, 1, 0) as (server,):
        done = await server.call("LeavePg", pb.LeavePgRequest(drive=1, nonce=7))
        assert len(done.refused) == 64


async def test_generations_since_a_revision_are_those_that_changed(mgr):
    async with peers(mgr, 1, 1) as (server, client):
        volume = await new_volume(mgr)
        first = await server.call("ReadGenerations", pb.ReadGenerationsRequest(pool=1))
        assert [(e.volume, e.generation) for e in first.entries] == [(volume, 0)]
        request = pb.ReadGenerationsRequest(pool=1, since_revision=first.revision)
        assert not (await server.call("ReadGenerations", request)).entries
        attach = pb.AttachRequest(volume=volume, mode=pb.MODE_READ_WRITE, nonce=5)
        await client.call("Attach", attach)
        changed = await server.call("ReadGenerations", request)
        assert [(e.generation, e.nonce) for e in changed.entries] == [(1, 5)]


async def test_attach_activate_resize_detach_over_the_channel(mgr):
    async with peers(mgr, 3, 1) as made:
        client = made[-1]
        volume = await new_volume(mgr)
        attach = pb.AttachRequest(volume=volume, mode=pb.MODE_READ_WRITE, nonce=5)
        answer = await client.call("Attach", attach)
        assert (answer.generation, answer.needs_recovery, answer.name) == (1, True, "v")
        assert answer.map_revision == (await client.map()).revision
        await client.call("Activate", pb.ActivateRequest(volume=volume, generation=1, nonce=5))
        await mgr.http.patch("/v1/volumes/v", json={"size": 2 * GIB})
        await until(
            lambda: any(m.WhichOneof("kind") == "changed" for m in client.messages), "the change"
        )
        ticket = await client.call("ReadTicket", pb.ReadTicketRequest(volume=volume, nonce=5))
        assert (ticket.size_bytes, ticket.ticket_serial) == (2 * GIB, 2)
        await client.call("Detach", pb.DetachRequest(volume=volume, nonce=5, clean=True))
        shown = (await mgr.http.get("/v1/volumes/v")).json()
        assert (shown["clean"], shown["attachments"]) == (True, [])


async def test_unpublish_of_an_attached_volume_fences_it_everywhere_and_tells(mgr):
    async with peers(mgr, 3, 2) as made:
        servers, client = made[:3], made[3]
        volume = await new_volume(mgr)
        attach = pb.AttachRequest(volume=volume, mode=pb.MODE_READ_WRITE, nonce=5)
        await client.call("Attach", attach)
        answer = await mgr.http.post("/v1/volumes/v/unpublish", json={"node": "block-1"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["generation"] == 2
        assert answer.json()["publications"] == []
        fences = [c.fence for s in servers for c in s.commands if c.WhichOneof("kind") == "fence"]
        assert {f.generation for f in fences} == {2}
        assert {d for f in fences for d in f.drives} == {1, 2, 3}
        await until(
            lambda: any(m.WhichOneof("kind") == "revoked" for m in client.messages), "the notice"
        )
        readopt = pb.ReAdoptRequest(volume=volume, nonces=[5], new_nonce=6)
        assert await refused(client.call("ReAdopt", readopt)) == "attachment_gone"


async def test_deleting_a_volume_frees_its_layer_on_every_server(mgr):
    async with peers(mgr, 3, 0) as made:
        await mgr.http.post("/v1/volumes", json={"name": "v", "size": GIB})
        assert (await mgr.http.delete("/v1/volumes/v")).status_code == 204
        await until(
            lambda: all(
                any(c.WhichOneof("kind") == "free_layer" for c in s.commands) for s in made
            ),
            "the orders",
        )


async def test_a_manager_that_restarts_keeps_everything(tmp_path):
    async with manager(tmp_path / "m") as mgr, peers(mgr, 1, 1) as (_, client):
        volume = await new_volume(mgr)
        attach = pb.AttachRequest(volume=volume, mode=pb.MODE_READ_WRITE, nonce=5)
        before = await client.call("Attach", attach)
        uuid, metadata = client.uuid, client.metadata
    async with manager(tmp_path / "m") as mgr:
        client = Peer(mgr, "block-1", "client", uuid=uuid, metadata=metadata)
        await client.register()
        after = await client.call("Attach", attach)
        assert (after.generation, after.ticket) == (before.generation, before.ticket)
        await client.close()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Attach", pb.AttachRequest(volume=2**64 - 1, mode=pb.MODE_READ_WRITE, nonce=1)),
        ("Attach", pb.AttachRequest(volume=1, nonce=1)),
        ("Attach", pb.AttachRequest()),
        ("ReadVolume", pb.ReadVolumeRequest(name="ä" * 1000)),
        ("ReadVolume", pb.ReadVolumeRequest()),
        ("ReAdopt", pb.ReAdoptRequest(volume=5, nonces=[0] * 10_000, new_nonce=0)),
        ("Activate", pb.ActivateRequest(volume=2**63)),
        ("ReadTicket", pb.ReadTicketRequest()),
    ],
)
async def test_bad_calls_are_typed_errors(mgr, method, request_):
    async with peers(mgr, 0, 1) as (client,):
        assert await refused(client.call(method, request_)) not in ("", "internal")


async def test_bad_calls_of_a_server_are_typed_errors(mgr):
    async with peers(mgr, 1, 0) as (server,):
        for method, request in (
            ("OpenDrive", pb.OpenDriveRequest(uuid=b"x")),
            ("ReportDrive", pb.ReportDriveRequest(drive=99, nonce=1, state=pb.DRIVE_STATE_READY)),
            ("ReportDrive", pb.ReportDriveRequest(drive=1, nonce=99, state=pb.DRIVE_STATE_READY)),
            ("ReportDrive", pb.ReportDriveRequest(drive=1, nonce=7)),
            ("LeavePg", pb.LeavePgRequest(drive=2**32 - 1)),
            ("CopyComplete", pb.CopyCompleteRequest(drive=1, nonce=3)),
            ("RenewEpochs", pb.RenewEpochsRequest(drive=1, nonce=3)),
        ):
            assert await refused(server.call(method, request)) not in ("", "internal")
        many = pb.RenewEpochsRequest(drive=1, nonce=7, pgs=[pb.Pg(pool=1, pg=0, epoch=1)] * 1025)
        assert await refused(server.call("RenewEpochs", many)) == "too_many_pgs"
        big = pb.ReadGenerationsRequest(pool=2**32 - 1, since_revision=2**64 - 1)
        assert not (await server.call("ReadGenerations", big)).entries


async def test_a_forgotten_node_is_replaced_by_one_that_has_room(mgr):
    async with peers(mgr, 3, 1) as made:
        client = made[-1]
        spare = Peer(mgr, "node-4", "server")
        await spare.register(await mgr.token("server", "node-4"))
        await spare.connect()
        await spare.open_drive()
        await made[0].die()

        async def dropped():
            return all(members == {2, 3} for members in insync(await client.map()))

        await until(dropped, "the drop")
        assert (await mgr.http.delete("/v1/nodes/node-1")).status_code == 204

        async def replaced():
            shards = (await client.map()).pools[0].shards
            records = [r for s in shards for r in pgmap.decode_shard(s)]
            return all(
                set(r.target) == {2, 3, spare.drive} and r.joiner(spare.drive) and not r.out
                for r in records
            )

        await until(replaced, "the join of the spare")
        assert await refused(made[0].register()) == "join_token_invalid"
        await spare.close()


async def test_when_every_server_dies_at_once_no_copy_is_thrown_away(mgr):
    async with peers(mgr, 3, 1) as made:
        for server in made[:3]:
            await server.stop_listening()
        for server in made[:3]:
            await server.disconnect()
        for server in made[:3]:
            await mgr.services.judge.check_process(server.uuid.hex())
        await mgr.services.judge.sweep()
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))
        assert (await mgr.status())["health"] == "critical"


async def test_a_death_while_no_manager_ran_is_found_by_the_sweep(tmp_path):
    async with manager(tmp_path / "m") as mgr, peers(mgr, 3, 0) as made:
        kept = [(p.uuid, p.metadata) for p in made]
    async with manager(tmp_path / "m") as mgr:
        back = []
        for number, (uuid, metadata) in enumerate(kept[:2], start=1):
            peer = Peer(mgr, f"node-{number}", "server", uuid=uuid, metadata=metadata)
            peer.cluster = (await peer.register()).cluster
            await peer.connect(instance=2)
            await peer.open_drive(nonce=8, previous=7)
            back.append(peer)

        async def dropped():
            return all(members == {1, 2} for members in insync(await back[0].map()))

        await until(dropped, "the drop of the one that did not come back")
        for peer in back:
            await peer.close()
