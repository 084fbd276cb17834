"""The beacon's Python side against a real manager; the native core is a stand-in."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID

import pytest

from drystone_common.errors import ConflictError, UnavailableError
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.leasepage import PageWatch, attached
from drystone_storaged.beacon import app
from drystone_storaged.beacon.app import Beacon, admitted, core_config, started
from drystone_storaged.beacon.settings import BeaconSettings
from drystone_storaged.proto import control_pb2
from tests.storaged.fake_native import FakeBeaconCore
from tests.storaged.manager_env import Peer, peers, until

LISTEN = "127.0.0.1:4711"


async def settings_for(mgr, folder, name: str) -> BeaconSettings:
    folder.mkdir(exist_ok=True)
    token = folder / "token"
    token.write_text(await mgr.token("beacon", name))
    return BeaconSettings(
        name=name,
        state_dir=str(folder / "state"),
        managers=[mgr.running.control],
        join_token_file=str(token),
        listen=LISTEN,
        run_dir=str(folder / "run"),
    )


@contextlib.asynccontextmanager
async def running_beacon(mgr, folder, name="node-1"):
    """A beacon around a stand-in, as `serve` builds it."""
    settings = await settings_for(mgr, folder, name)
    control, core = Control(settings.managers), FakeBeaconCore()
    try:
        membership = await admitted(control, settings)
        address = core.start(core_config(membership, 5, settings.listen))
        hello = control_pb2.Hello(instance=5, version="0", beacon_addr=address)
        beacon = Beacon(control, core, hello)
        task = asyncio.create_task(beacon.run())
        try:
            yield beacon, core
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert core.stopped, "its leases are withdrawn"
    finally:
        await control.aclose()
        core.close()


async def test_a_beacon_starts_for_its_node_and_learns_voters_and_suspicions(mgr, tmp_path):
    async with peers(mgr, 1, 0) as made, running_beacon(mgr, tmp_path / "b") as (_, core):
        await until(lambda: {"voters", "suspects"} <= {k for k, _ in core.told}, "both lists")
        told = dict(core.told)
        node = str(UUID(bytes=made[0].uuid))
        assert told["start"]["node"] == node
        assert told["start"]["listen"] == LISTEN
        assert len(bytes.fromhex(told["start"]["master"])) == 32
        assert told["voters"][2] == [(node, LISTEN)]


async def test_a_beacon_that_starts_first_waits_for_its_server(mgr, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "SERVER_WAIT_S", 0.01)
    settings = await settings_for(mgr, tmp_path / "b", "node-1")
    control = Control(settings.managers)
    waiting = asyncio.create_task(admitted(control, settings))
    server = Peer(mgr, "node-1", "server")
    try:
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        await server.register(await mgr.token("server", "node-1"))
        membership = await asyncio.wait_for(waiting, 20)
        assert membership.node == server.uuid
    finally:
        waiting.cancel()
        await server.close()
        await control.aclose()


async def test_a_restarted_beacon_needs_no_second_token(mgr, tmp_path):
    async with peers(mgr, 1, 0):
        for _ in range(2):
            async with running_beacon(mgr, tmp_path / "b") as (beacon, _):
                await asyncio.wait_for(beacon.session.connected.wait(), 20)


async def test_the_manager_gets_promises_and_revocations_from_the_beacon(mgr, tmp_path):
    async with peers(mgr, 2, 0) as made, running_beacon(mgr, tmp_path / "b") as (beacon, core):
        await asyncio.wait_for(beacon.session.connected.wait(), 20)
        node, commander = made[0].uuid.hex(), mgr.services.commander
        await until(lambda: mgr.services.sessions.get(("beacon", node)), "its session")
        assert not await commander.revoke(node, 5, 0), "the server moves"
        core.still = True
        assert await commander.revoke(node, 5, 0)
        assert await commander.revoke(node, 5, 7)
        assert [what for kind, what in core.told if kind == "revoke"] == [(0, 5), (0, 5), (7, 5)]
        suspect = control_pb2.Suspect(node=made[1].uuid, round=7)
        command = control_pb2.Command(promise=control_pb2.Promise(suspect=suspect))
        result = await mgr.services.sessions.command(node, command, 5.0, role="beacon")
        assert result.code == ""
        odd = control_pb2.Command(fence=control_pb2.Fence())
        result = await mgr.services.sessions.command(node, odd, 5.0, role="beacon")
        assert result.code == "failed"


async def test_what_the_beacon_does_not_hear_reaches_the_manager(mgr, tmp_path):
    async with peers(mgr, 3, 0) as made, running_beacon(mgr, tmp_path / "b") as (beacon, core):
        await asyncio.wait_for(beacon.session.connected.wait(), 20)
        core.emit("quorum", inside=True)
        core.emit("silent", nodes=[str(UUID(bytes=made[2].uuid))])

        def noted() -> bool:
            seen = mgr.services.silence._tracker._reports.get(made[0].uuid.hex())
            return seen is not None and made[2].uuid.hex() in seen[1]

        await until(noted, "the report")
        assert beacon.silence.in_quorum


async def test_a_port_that_is_taken_is_waited_for_and_then_an_error(monkeypatch):
    monkeypatch.setattr(app, "SERVER_WAIT_S", 0.01)
    core, tries = FakeBeaconCore(), []

    def start(_config: str) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("address in use")
        return LISTEN

    monkeypatch.setattr(core, "start", start)
    assert await started(core, "{}") == LISTEN
    monkeypatch.setattr(app, "PORT_WAIT_S", 0.0)
    tries.clear()
    with pytest.raises(ConflictError, match="address in use"):
        await started(core, "{}")
    core.close()


async def test_a_page_that_cannot_be_used_and_one_that_is_lost_end_the_process():
    def refuse() -> None:
        raise RuntimeError("another beacon uses it")

    with pytest.raises(ConflictError, match="another beacon uses it"):
        attached(refuse)
    watch = PageWatch()
    watch.on_lost({})
    with pytest.raises(UnavailableError) as caught:
        await watch.failure()
    assert caught.value.code == "lease_page_lost"
