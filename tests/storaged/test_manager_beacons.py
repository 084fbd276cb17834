"""Beacons as processes of their own: who speaks for a node, and how its server's end is proven."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest

from drystone_storaged.cluster import keys
from drystone_storaged.manager.control.credentials import Peer as Caller
from drystone_storaged.manager.probe import Liveness
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import Peer, insync, peers, until

ADDRESS = "127.0.0.1:4711"
INSTANCE = 4


@contextlib.asynccontextmanager
async def beacon(mgr, name: str, *, still: list[bool] | None = None):
    """A connected beacon of a node whose server is registered, and takes its leases there."""
    found = await mgr.services.nodes.served(name)
    server = Peer(mgr, name, "server", uuid=bytes.fromhex(found.uuid), page_instance=INSTANCE)
    server.metadata = (
        ("authorization", "Bearer " + mgr.services.credentials.issue(Caller("server", found.uuid))),
    )
    await server.register()
    await server.close()
    peer = Peer(mgr, name, "beacon", beacon_addr=ADDRESS, still=still or [False])
    try:
        await peer.register(await mgr.token("beacon", name))
        await peer.connect()
        yield peer
    finally:
        await peer.close()


class Found:
    """A prober that finds the same at one address, and listeners everywhere else."""

    def __init__(self, address: str, found: Liveness) -> None:
        self.address = address
        self.found = found

    async def probe(self, address: str) -> Liveness:
        return self.found if address == self.address else Liveness.LISTENING


async def probes(mgr, found: Liveness, number: int = 1) -> None:
    address = (await mgr.services.feed.read()).drives[number].addr
    object.__setattr__(mgr.services.judge._deps, "prober", Found(address, found))


def kinds(peer: Peer) -> list[str]:
    return [str(command.WhichOneof("kind")) for command in peer.commands]


async def suspicions(mgr) -> list[str]:
    page = await mgr.services.env.store.range(keys.SUSPECTS)
    return [item.key for item in page.items]


async def test_a_beacon_waits_for_the_server_of_its_name(mgr):
    peer = Peer(mgr, "node-1", "beacon")
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.register(await mgr.token("beacon", "node-1"))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert ("drystone-code", "node_not_registered") in tuple(caught.value.trailing_metadata())
    finally:
        await peer.close()


async def test_a_beacon_speaks_for_the_server_of_its_name_and_is_heard_at_its_own_address(mgr):
    async with peers(mgr, 2, 0) as made:
        peer = Peer(mgr, "node-2", "beacon", beacon_addr=ADDRESS)
        answer = await peer.register(await mgr.token("beacon", "node-2"))
        assert answer.node == made[1].uuid
        assert len(answer.master_key) == 32

        def told() -> bool:
            listed = [m.welcome.voters for m in made[0].messages if m.HasField("welcome")]
            return ADDRESS in [v.beacon_addr for v in listed[-1].voters]

        await until(told, "its address")
        # The server without a beacon inside does not take the address away again.
        await made[1].register()
        assert (await mgr.services.nodes.served("node-2")).beacon_addr == ADDRESS
        await peer.close()


async def test_a_token_of_another_role_admits_no_beacon(mgr):
    async with peers(mgr, 1, 0):
        peer = Peer(mgr, "node-1", "beacon")
        with pytest.raises(grpc.aio.AioRpcError):
            await peer.register(await mgr.token("server", "node-1"))
        await peer.close()


async def test_a_client_is_no_beacon(mgr):
    async with peers(mgr, 1, 1) as made:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await made[1].call("ReportSilence", pb.ReportSilenceRequest())
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_promises_are_asked_of_beacons_and_of_servers_that_have_theirs_inside(mgr):
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1") as own:
        for peer in (own, made[1]):
            report = pb.ReportSilenceRequest(voters_version=99, silent=[made[2].uuid])
            await peer.call("ReportSilence", report)
        await until(lambda: "promise" in kinds(own) and "promise" in kinds(made[1]), "both")
        assert "promise" not in kinds(made[0]), "its beacon is another process"

        async def dropped():
            return all(3 not in members for members in insync(await made[-1].map()))

        await until(dropped, "the silent node is dropped")


async def test_a_frozen_server_is_dropped_by_its_beacons_word(mgr):
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1", still=[True]) as own:
        made[0].answers = False
        await probes(mgr, Liveness.LISTENING)
        stall = pb.ReportFailureRequest(drive=1, kind=pb.FAILURE_KIND_STALL)
        await made[-1].call("ReportFailure", stall)

        async def dropped():
            return all(members == {2, 3} for members in insync(await made[-1].map()))

        await until(dropped, "the frozen server is dropped")
        asked = [c.revoke.round for c in own.commands if c.HasField("revoke")]
        assert {c.revoke.instance for c in own.commands if c.HasField("revoke")} == {INSTANCE}
        assert asked[0] == 0, "first only asked"
        assert asked[1] > 0, "then promised for a suspicion that stands"

        async def withdrawn():
            return await suspicions(mgr) == []

        await until(withdrawn, "the suspicion ends with the drop")

        def told() -> bool:
            listed = [m.suspects for m in own.messages if m.HasField("suspects")]
            return not listed[-1].suspects and listed[-1].revision > asked[1]

        await until(told, "the beacon hears of the end")


async def test_voters_that_hear_nothing_wait_for_no_beacon_that_is_frozen_too(mgr):
    """A machine that stands still: its server is reported, and its own beacon cannot answer."""
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1"):
        await probes(mgr, Liveness.LISTENING)
        asked, thawed = asyncio.Event(), asyncio.Event()

        async def frozen(_node: str, _instance: int, _round: int) -> bool:
            asked.set()
            await thawed.wait()
            return False

        mgr.services.commander.revoke = frozen
        look = asyncio.create_task(mgr.services.judge.check_process(made[0].uuid.hex()))
        await asked.wait()
        for peer in made[1:3]:
            report = pb.ReportSilenceRequest(voters_version=99, silent=[made[0].uuid])
            await peer.call("ReportSilence", report)

        async def dropped():
            return all(members == {2, 3} for members in insync(await made[-1].map()))

        await until(dropped, "the silent node is dropped while its beacon is still asked")
        assert not look.done()
        thawed.set()
        assert not await look
        assert await suspicions(mgr) == []


async def test_a_beacons_late_word_begins_nothing_beside_its_voters(mgr):
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1"):
        silence, node = mgr.services.silence, made[0].uuid.hex()
        asked, thawed = asyncio.Event(), asyncio.Event()

        async def late(_node: str, _instance: int, _round: int) -> bool:
            asked.set()
            await thawed.wait()
            return True

        mgr.services.commander.revoke = late
        look = asyncio.create_task(silence.server_is_still(node))
        await asked.wait()
        assert not await silence.server_is_still(node), "its beacon is asked already"
        voters = asyncio.create_task(thawed.wait())
        silence._running[node] = voters
        thawed.set()
        assert not await look
        assert silence._running.pop(node) is voters
        assert await suspicions(mgr) == []
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_a_server_that_moves_is_not_dropped_and_no_suspicion_is_written(mgr):
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1", still=[False]) as own:
        await probes(mgr, Liveness.SILENT)
        assert not await mgr.services.judge.check_process(made[0].uuid.hex())
        assert kinds(own) == ["revoke"]
        assert await suspicions(mgr) == []
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_a_server_that_thaws_after_the_first_look_is_not_dropped(mgr):
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1", still=[True, False]) as own:
        await probes(mgr, Liveness.LISTENING)
        assert not await mgr.services.judge.check_process(made[0].uuid.hex())
        assert kinds(own) == ["revoke", "revoke"]
        assert await suspicions(mgr) == []
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_a_dead_server_that_nobody_can_probe_is_dropped_when_its_session_ends(mgr):
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1", still=[True]):
        await probes(mgr, Liveness.SILENT)
        await made[0].die()

        async def dropped():
            return all(members == {2, 3} for members in insync(await made[-1].map()))

        await until(dropped, "the dead server is dropped")


async def test_no_beacon_speaks_for_a_server_that_has_its_own_inside(mgr):
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1", still=[True]) as own:
        # It was started again without `run_dir`: its leases come from somewhere else now.
        made[0].beacon_addr = "127.0.0.1:4712"
        await made[0].register()
        await probes(mgr, Liveness.LISTENING)
        assert not await mgr.services.judge.check_process(made[0].uuid.hex())
        assert "revoke" not in kinds(own)
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_without_a_beacon_silence_alone_still_proves_nothing(mgr):
    async with peers(mgr, 3, 1) as made:
        await probes(mgr, Liveness.SILENT)
        assert not await mgr.services.judge.check_process(made[0].uuid.hex())
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_a_drive_that_is_opened_while_its_server_counts_as_still_keeps_its_open(mgr):
    async with peers(mgr, 3, 1) as made, beacon(mgr, "node-1", still=[True]) as own:
        await probes(mgr, Liveness.LISTENING)
        commander = mgr.services.commander
        revoke = commander.revoke

        async def slowly(node: str, instance: int, round_: int) -> bool:
            granted = await revoke(node, instance, round_)
            if round_:
                await made[0].open_drive(nonce=8, previous=7)
            return granted

        commander.revoke = slowly
        await mgr.services.judge.check_process(made[0].uuid.hex())
        assert "revoke" in kinds(own)
        state = await mgr.services.feed.read()
        assert state.drives[1].nonce == 8, "the process that came meanwhile is not in the way"
        assert await suspicions(mgr) == []


async def test_a_forgotten_node_takes_its_beacon_along(mgr):
    async with peers(mgr, 2, 0):
        extra = Peer(mgr, "node-9", "server")
        await extra.register(await mgr.token("server", "node-9"))
        async with beacon(mgr, "node-9") as own:
            answer = await mgr.http.delete("/v1/nodes/node-9")
            assert answer.status_code == 204, answer.text
            with pytest.raises(grpc.aio.AioRpcError, match="forgotten"):
                await own.call("ReportSilence", pb.ReportSilenceRequest())
        await extra.close()
        again = Peer(mgr, "node-9", "server")
        await again.register(await mgr.token("server", "node-9"))
        async with beacon(mgr, "node-9"):
            pass
        await again.close()


async def test_a_beacon_that_is_away_is_an_issue_and_one_that_is_inside_is_not(mgr):
    async with peers(mgr, 2, 0):
        async with beacon(mgr, "node-1"):
            assert not [i for i in (await mgr.status())["issues"] if "beacon" in i]

        async def said():
            return [i for i in (await mgr.status())["issues"] if "beacon of node node-1" in i]

        await until(said, "the issue")
        assert not [i for i in (await mgr.status())["issues"] if "beacon of node node-2" in i]
