"""The block daemon's Python side against a real manager; the native core is a stand-in."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import grpc
import pytest

from drystone_common.errors import UnavailableError
from drystone_storaged.attach.interface import AttacherKind, Device
from drystone_storaged.block.app import BlockDaemon
from drystone_storaged.block.devices import Devices
from drystone_storaged.block.figures import ENGINE_NAMES
from drystone_storaged.block.records import Record, Records
from drystone_storaged.block.service import BlockService, serving
from drystone_storaged.block.settings import BlockSettings
from drystone_storaged.proto import block_pb2, block_pb2_grpc, control_pb2
from tests.storaged.daemon_env import joined, running, token_file
from tests.storaged.fake_native import FakeBlockCore
from tests.storaged.manager_env import GIB, manager, peers, until

ROOT = Path(__file__).resolve().parents[2]
RW, EXPORT = block_pb2.MODE_READ_WRITE, block_pb2.ATTACHER_EXPORT


@pytest.fixture
async def mgr(tmp_path):
    async with manager(tmp_path / "m") as running, peers(running, 1, 0):
        yield running


@contextlib.asynccontextmanager
async def running_block(mgr, folder: Path, core=None):
    """A block daemon named block-1 and a stub of its socket."""
    settings = BlockSettings(
        name="block-1", state_dir=str(folder / "state"), managers=[mgr.running.control],
        join_token_file=await token_file(mgr, folder, "client", "block-1"),
        socket=str(folder / "b.sock"),
    )  # fmt: skip
    core = core or FakeBlockCore()
    async with joined(settings, control_pb2.ROLE_CLIENT, core) as (control, membership):
        daemon = BlockDaemon(settings, control, membership, core)
        service = BlockService(
            daemon.volumes, membership, daemon.devices.kinds(), daemon.session.connected.is_set
        )
        async with (
            running(daemon),
            serving(service, Path(settings.socket)),
            grpc.aio.insecure_channel(f"unix://{settings.socket}") as channel,
        ):
            await until(daemon.session.connected.is_set, "the session")
            yield daemon, block_pb2_grpc.BlockStub(channel)


async def new_volume(mgr, name="v", size=GIB) -> str:
    volume = (await mgr.http.post("/v1/volumes", json={"name": name, "size": size})).json()["id"]
    body = {"node": "block-1", "mode": "rw"}
    answer = await mgr.http.post(f"/v1/volumes/{volume}/publish", json=body)
    assert answer.status_code == 200, answer.text
    return volume


def attach_request(volume, mode=RW, attacher=EXPORT) -> block_pb2.AttachRequest:
    return block_pb2.AttachRequest(volume_id=volume, mode=mode, attacher=attacher)


async def code_of(call) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return dict(caught.value.trailing_metadata())["drystone-code"]


async def shown(mgr, volume) -> dict:
    return (await mgr.http.get(f"/v1/volumes/{volume}")).json()


async def test_an_attached_volume_is_active_and_repeating_the_call_changes_nothing(mgr, tmp_path):
    async with running_block(mgr, tmp_path / "b") as (_, stub):
        volume = await new_volume(mgr)
        first = await stub.Attach(attach_request(volume), timeout=10)
        assert first.state == block_pb2.STATE_ACTIVE
        assert (first.generation, first.size_bytes, first.device) == (1, GIB, "")
        assert first.nbd_uri.startswith(f"nbd+unix:///{volume}?socket=/")
        assert await stub.Attach(attach_request(volume), timeout=10) == first
        assert [a["state"] for a in (await shown(mgr, volume))["attachments"]] == ["active"]


async def test_an_attach_that_was_not_published_is_refused_and_leaves_nothing(mgr, tmp_path):
    async with running_block(mgr, tmp_path / "b") as (daemon, stub):
        made = await mgr.http.post("/v1/volumes", json={"name": "v", "size": GIB})
        call = stub.Attach(attach_request(made.json()["id"]), timeout=10)
        assert await code_of(call) == "not_published"
        assert not daemon.volumes.list()
        assert not list((tmp_path / "b/state/attachments").iterdir())


async def test_another_mode_or_attacher_than_the_standing_one_is_refused(mgr, tmp_path):
    async with running_block(mgr, tmp_path / "b") as (_, stub):
        volume = await new_volume(mgr)
        await stub.Attach(attach_request(volume), timeout=10)
        again = attach_request(volume, mode=block_pb2.MODE_READ_ONLY)
        assert await code_of(stub.Attach(again, timeout=10)) == "attached_otherwise"


async def test_a_detach_gives_the_attachment_back_and_may_be_repeated(mgr, tmp_path):
    async with running_block(mgr, tmp_path / "b") as (_, stub):
        volume = await new_volume(mgr)
        await stub.Attach(attach_request(volume), timeout=10)
        for _ in range(2):
            await stub.Detach(block_pb2.DetachRequest(volume_id=volume), timeout=10)
        found = await shown(mgr, volume)
        assert (found["attachments"], found["clean"]) == ([], True)


async def test_a_restarted_daemon_proves_its_attachment_and_gets_a_new_generation(mgr, tmp_path):
    async with running_block(mgr, tmp_path / "b") as (_, stub):
        volume = await new_volume(mgr)
        before = await stub.Attach(attach_request(volume), timeout=10)
    async with running_block(mgr, tmp_path / "b") as (daemon, stub):
        await until(
            lambda: (
                daemon.volumes.get(int(volume, 16))
                and not daemon.volumes.get(int(volume, 16)).readopting
            ),
            "the re-adoption",
        )
        after = await stub.Attach(attach_request(volume), timeout=10)
        assert after.generation == before.generation + 1
        assert after.nbd_uri == before.nbd_uri
        assert len((await shown(mgr, volume))["attachments"]) == 1


async def test_a_daemon_that_was_fenced_while_away_serves_errors_until_it_is_detached(
    mgr, tmp_path
):
    async with running_block(mgr, tmp_path / "b") as (_, stub):
        volume = await new_volume(mgr)
        await stub.Attach(attach_request(volume), timeout=10)
    answer = await mgr.http.post(f"/v1/volumes/{volume}/fence", json={})
    assert answer.status_code == 200, answer.text
    async with running_block(mgr, tmp_path / "b") as (daemon, stub):

        async def fenced() -> bool:
            found = (await stub.List(block_pb2.ListRequest(), timeout=5)).attachments
            return bool(found) and found[0].state == block_pb2.STATE_FENCED

        await until(fenced, "the fenced state")
        assert daemon.core.attached[int(volume, 16)]["fenced"], "the export answers errors"
        assert await code_of(stub.Attach(attach_request(volume), timeout=10)) == "volume_fenced"
        await stub.Detach(block_pb2.DetachRequest(volume_id=volume), timeout=10)
        assert not (await stub.List(block_pb2.ListRequest(), timeout=5)).attachments


class LeftBehind:
    """Devices of a host; ``left``: volumes of which an earlier run left something."""

    def __init__(self, left: tuple[str, ...]) -> None:
        self.left = left

    async def found(self) -> tuple[str, ...]:
        return self.left

    async def adopt(self, spec) -> Device:
        return Device(spec.volume_id, AttacherKind.FUSE, "/dev/loop9", spec.size_bytes)

    attach = adopt

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        self.left = ()

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("device_left", [False, True])
async def test_a_daemon_killed_after_the_manager_knew_of_a_detach_needs_no_second_one(
    mgr, tmp_path, monkeypatch, device_left
):
    fuse = block_pb2.ATTACHER_FUSE
    left = LeftBehind(())

    async def get(_self, _kind):
        return left

    monkeypatch.setattr(Devices, "get", get)
    async with running_block(mgr, tmp_path / "b") as (daemon, stub):
        volume = await new_volume(mgr)
        await stub.Attach(attach_request(volume, attacher=fuse), timeout=10)
        with monkeypatch.context() as killed:
            killed.setattr(daemon.volumes._records, "remove", lambda _volume: None)
            await stub.Detach(block_pb2.DetachRequest(volume_id=volume), timeout=10)
    left.left = (volume,) if device_left else ()
    async with running_block(mgr, tmp_path / "b") as (daemon, stub):
        known = daemon.volumes
        if device_left:
            await until(lambda: known.get(int(volume, 16)).gone, "the loss to be seen")
            again = attach_request(volume, attacher=fuse)
            assert await code_of(stub.Attach(again, timeout=10)) == "volume_fenced"
            return
        await until(lambda: known.get(int(volume, 16)) is None, "the rest to be forgotten")
        await stub.Attach(attach_request(volume, attacher=fuse), timeout=10)
        assert len((await shown(mgr, volume))["attachments"]) == 1


async def test_a_fence_by_the_manager_reaches_a_running_daemon(mgr, tmp_path):
    async with running_block(mgr, tmp_path / "b") as (daemon, stub):
        volume = await new_volume(mgr)
        await stub.Attach(attach_request(volume), timeout=10)
        await mgr.http.post(f"/v1/volumes/{volume}/fence", json={})
        await until(lambda: daemon.volumes.get(int(volume, 16)).gone, "the end of the attachment")


async def test_a_resize_is_taken_over_and_shown(mgr, tmp_path):
    async with running_block(mgr, tmp_path / "b") as (_, stub):
        volume = await new_volume(mgr)
        await stub.Attach(attach_request(volume), timeout=10)
        await mgr.http.patch(f"/v1/volumes/{volume}", json={"size": 2 * GIB})
        request = block_pb2.ResizeRequest(volume_id=volume, size_bytes_min=2 * GIB)
        assert (await stub.Resize(request, timeout=10)).size_bytes == 2 * GIB
        too_much = block_pb2.ResizeRequest(volume_id=volume, size_bytes_min=3 * GIB)
        assert await code_of(stub.Resize(too_much, timeout=10)) == "size_not_recorded"


async def test_an_attach_that_was_cut_off_goes_on_with_the_same_nonce(mgr, tmp_path):
    core = FakeBlockCore()
    async with running_block(mgr, tmp_path / "b", core) as (_, stub):
        volume = await new_volume(mgr)
        core.hold.add(int(volume, 16))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Attach(attach_request(volume), timeout=0.5)
        core.emit("want_activate", volume=int(volume, 16), generation=1)
        assert (await stub.Attach(attach_request(volume), timeout=10)).generation == 1


async def test_a_second_sequencer_never_gets_the_generation_of_the_first(
    mgr, tmp_path, monkeypatch
):
    # It would count its versions from 1 again, and servers answer OK to versions they know
    # without storing anything: acknowledged writes would be lost.
    async with running_block(mgr, tmp_path / "b") as (daemon, stub):
        volume = await new_volume(mgr)
        first = await stub.Attach(attach_request(volume), timeout=10)

        async def lost(*_args, **_kwargs):
            raise UnavailableError("the manager did not answer")

        with monkeypatch.context() as cut:
            cut.setattr(daemon.volumes._grants, "detach", lost)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Detach(block_pb2.DetachRequest(volume_id=volume), timeout=10)
        assert daemon.engine.get(int(volume, 16)) is None
        second = await stub.Attach(attach_request(volume), timeout=10)
        assert second.generation > first.generation


async def test_an_activation_that_breaks_in_an_unforeseen_way_is_asked_again(
    mgr, tmp_path, monkeypatch
):
    core = FakeBlockCore()
    async with running_block(mgr, tmp_path / "b", core) as (daemon, stub):
        volume = await new_volume(mgr)
        await stub.Attach(attach_request(volume), timeout=10)
        outcomes = []
        monkeypatch.setattr(core, "activated", lambda _v, _g, outcome: outcomes.append(outcome))

        async def broken(*_args):
            raise RuntimeError("a defect")

        monkeypatch.setattr(daemon.volumes._grants, "activate", broken)
        await daemon.volumes.activate(int(volume, 16), 1)
        assert outcomes == ["retry"]


async def test_stats_and_info_answer_without_the_manager(mgr, tmp_path):
    async with running_block(mgr, tmp_path / "b") as (_, stub):
        volume = await new_volume(mgr)
        await stub.Attach(attach_request(volume), timeout=10)
        stats = await stub.Stats(block_pb2.StatsRequest(volume_id=volume), timeout=5)
        assert (stats.completed_requests, stats.failed_requests) == (9, 1)
        assert (stats.writes_issued, stats.reads_sent) == (7, 5)
        assert (stats.insync_waits, stats.credit_waits) == (3, 2)
        assert stats.in_flight_requests == 2
        assert (stats.write.completed, stats.write.failed, stats.write.bytes) == (3, 1, 12288)
        info = await stub.Info(block_pb2.InfoRequest(), timeout=5)
        assert (info.node, info.ready) == ("block-1", True)
        assert block_pb2.ATTACHER_EXPORT in info.attachers


def test_every_counter_of_the_interface_is_one_that_the_engine_has():
    source = ROOT / "storaged/native/crates/sequencer/src/stats.rs"
    counted = set(re.findall(r"^    (\w+),$", source.read_text(), re.MULTILINE))
    assert set(ENGINE_NAMES.values()) <= counted
    fields = block_pb2.StatsResponse.DESCRIPTOR.fields
    plain = {field.name for field in fields if field.message_type is None}
    assert set(ENGINE_NAMES) | {"in_flight_requests"} == plain


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "0" * 15, "0" * 17, "G" * 16])
async def test_a_volume_id_that_is_none_is_refused(mgr, tmp_path, bad):
    async with running_block(mgr, tmp_path / "b") as (_, stub):
        assert await code_of(stub.Attach(attach_request(bad), timeout=5)) == "invalid_id"


def test_records_survive_a_restart_and_damage_is_left_alone(tmp_path):
    records = Records(tmp_path)
    record = Record(5, False, AttacherKind.EXPORT, (1, 2), "v", 3, 4096, b"\x00ticket")
    records.save(record)
    (tmp_path / "0000000000000009.json").write_text('{"volume": 9}')
    assert Records(tmp_path).load() == [record]
    records.remove(5)
    records.remove(5)
    assert Records(tmp_path).load() == []


def test_nonces_of_many_restarts_are_bounded_and_keep_the_oldest():
    nonces: tuple[int, ...] = (1,)
    for nonce in range(2, 200):
        nonces = Record(5, False, AttacherKind.EXPORT, nonces).tried(nonce)
    assert len(nonces) <= 64
    assert (nonces[0], nonces[-1]) == (1, 199)
