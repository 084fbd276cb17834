"""What surrounds the calls: socket, deadline, statuses, log lines without secrets."""

from __future__ import annotations

import asyncio
import socket
import stat

import grpc
import pytest

from drystone_common.errors import ConflictError, DrystoneError
from drystone_csi import intercept
from drystone_csi.proto import csi_pb2, csi_pb2_grpc
from drystone_csi.server import Services, serving
from drystone_csi.status import CODE_METADATA, status_of
from tests.csi.driver import mount
from tests.csi.fakes import FakeBlock, FakeHost, FakeManager


@pytest.fixture
def manager():
    return FakeManager()


@pytest.fixture
def services(manager):
    return Services(manager, FakeBlock(manager), runner=FakeHost())


@pytest.fixture
async def channel(services, tmp_path):
    async with (
        serving(services, tmp_path / "csi.sock"),
        grpc.aio.insecure_channel(f"unix://{tmp_path}/csi.sock") as channel,
    ):
        yield channel


async def test_only_root_reaches_the_socket_and_it_goes_away(services, tmp_path):
    path = tmp_path / "folder" / "csi.sock"
    async with serving(services, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_stale_socket_is_replaced_and_a_live_one_respected(services, tmp_path):
    path = tmp_path / "csi.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with serving(services, path):
        with pytest.raises(ConflictError) as caught:
            async with serving(services, path):
                pass
        assert caught.value.code == "socket_in_use"


async def test_a_file_in_the_place_of_the_socket_is_left_alone(services, tmp_path):
    path = tmp_path / "csi.sock"
    path.write_text("mine")
    with pytest.raises(ConflictError):
        async with serving(services, path):
            pass
    assert path.read_text() == "mine"


async def test_errors_are_statuses_with_a_stable_code(channel):
    controller = csi_pb2_grpc.ControllerStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await controller.CreateVolume(csi_pb2.CreateVolumeRequest(name="a"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata())[CODE_METADATA] == "invalid_argument"


async def test_what_is_not_claimed_is_unimplemented(channel):
    controller = csi_pb2_grpc.ControllerStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await controller.CreateSnapshot(csi_pb2.CreateSnapshotRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_probe_tells_whether_manager_and_block_are_there(channel, manager):
    identity = csi_pb2_grpc.IdentityStub(channel)
    assert (await identity.Probe(csi_pb2.ProbeRequest())).ready.value
    manager.up = False
    assert not (await identity.Probe(csi_pb2.ProbeRequest())).ready.value


async def test_a_call_that_hangs_ends_at_its_deadline_and_frees_the_volume(channel, manager):
    async def never(*_args):
        await asyncio.Event().wait()

    controller = csi_pb2_grpc.ControllerStub(channel)
    request = csi_pb2.CreateVolumeRequest(name="a", volume_capabilities=[mount()])
    original, manager.create_volume = manager.create_volume, never
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await controller.CreateVolume(request, timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    manager.create_volume = original
    assert (await controller.CreateVolume(request, timeout=10)).volume.volume_id


async def test_a_defect_is_an_answer_and_the_driver_goes_on(channel, manager):
    async def defect(*_args):
        raise ZeroDivisionError

    identity = csi_pb2_grpc.IdentityStub(channel)
    controller = csi_pb2_grpc.ControllerStub(channel)
    manager.list_volumes = defect
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await controller.ListVolumes(csi_pb2.ListVolumesRequest())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert (await identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest())).name


def test_secrets_are_not_in_what_is_logged():
    request = csi_pb2.CreateVolumeRequest(
        name="a", secrets={"key": "hunter2"}, parameters={"pool": "p"}
    )
    shown = str(intercept.redacted(request))
    assert "hunter2" not in shown
    assert "pool" in shown


def test_every_secret_field_of_the_interface_is_redacted():
    for message in csi_pb2.DESCRIPTOR.message_types_by_name.values():
        for field in message.fields:
            if field.name == "secrets":
                assert field.GetOptions().Extensions[csi_pb2.csi_secret], message.name


def test_a_huge_request_is_a_bounded_log_line():
    request = csi_pb2.CreateVolumeRequest(parameters={f"k{n}": "v" * 10000 for n in range(1000)})
    assert len(str(intercept.redacted(request))) < 10000


def test_every_error_has_a_status_of_its_kind():
    assert status_of(DrystoneError("x")) is grpc.StatusCode.INTERNAL
