"""The Controller service over a fake manager."""

from __future__ import annotations

import pytest

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NoSpaceError,
    NotFoundError,
)
from drystone_csi import topology
from drystone_csi.proto import csi_pb2
from drystone_csi.status import message_of, status_of
from tests.csi.driver import MODE, block, mount
from tests.csi.fakes import CLUSTER, GIB

MIB = 1 << 20
OTHER = "99999999-2222-3333-4444-555555555555"


async def test_a_volume_has_an_opaque_id_and_the_topology_of_its_cluster(driver):
    volume = await driver.create()
    assert volume.volume_id == f"{CLUSTER}/0000000000000001"
    assert dict(volume.accessible_topology[0].segments) == {topology.KEY: CLUSTER}
    assert driver.record(volume).attributes["csi.name"] == "pvc-1"


async def test_creating_twice_gives_the_same_volume(driver):
    assert await driver.create() == await driver.create()
    assert len(driver.manager.volumes) == 1


async def test_the_same_name_with_another_size_already_exists(driver):
    await driver.create(size=GIB)
    with pytest.raises(AlreadyExistsError):
        await driver.create(size=2 * GIB)


async def test_a_volume_that_has_grown_still_satisfies_a_repeated_create(driver):
    volume = await driver.create(size=GIB)
    await driver.manager.resize_volume("0000000000000001", 2 * GIB)
    assert (await driver.create(size=GIB)).volume_id == volume.volume_id


async def test_any_text_up_to_128_bytes_is_a_name(driver):
    volume = await driver.create(name="ü/ …" * 10)
    assert driver.record(volume).name.startswith("csi-")
    with pytest.raises(InvalidArgumentError):
        await driver.create(name="x" * 129)


@pytest.mark.parametrize(
    "parameters",
    [
        {"iops": "100"},
        {"Pool": "default"},
        {"pool": "../x"},
        {"csi.storage.k8s.io/fstype": "btrfs"},
        {"mkfsOptions": "-J device=/dev/sda"},
        {"mkfsOptions": "/dev/sda"},
        {"mkfsOptions": "-O ^has_journal; rm"},
    ],
)
async def test_unknown_or_dangerous_parameters_are_refused(driver, parameters):
    with pytest.raises(InvalidArgumentError):
        await driver.create(parameters=parameters)
    assert not driver.manager.volumes


async def test_every_unknown_parameter_is_named_with_those_that_there_are(driver):
    with pytest.raises(InvalidArgumentError) as caught:
        await driver.create(parameters={"replicas": "3", "Pool": "fast", "pool": "default"})
    # The provisioner puts this text into an event of the claim.
    text = message_of(caught.value)
    assert text.startswith("the StorageClass has parameters that are not known: 'Pool', 'replicas'")
    assert "mkfsOptions" in text
    assert status_of(caught.value).name == "INVALID_ARGUMENT"


async def test_known_parameters_reach_the_node_in_the_volume_context(driver):
    options = "-m 0 -O ^metadata_csum"
    volume = await driver.create(parameters={"pool": "default", "mkfsOptions": options})
    assert dict(volume.volume_context) == {"mkfsOptions": options}


async def test_what_the_provisioner_adds_names_the_claim_and_decides_nothing(driver):
    claim = {
        "csi.storage.k8s.io/pvc/namespace": "shop",
        "csi.storage.k8s.io/pvc/name": "data-db-0",
        "csi.storage.k8s.io/pv/name": "pvc-1",
    }
    volume = await driver.create(parameters=claim)
    assert driver.record(volume).attributes == {
        "csi.name": "pvc-1",
        "csi.pvcNamespace": "shop",
        "csi.pvcName": "data-db-0",
        "csi.pvName": "pvc-1",
    }
    assert not volume.volume_context
    assert (await driver.create()).volume_id == volume.volume_id


@pytest.mark.parametrize(
    ("size", "limit", "capability"),
    [(200 * MIB, 0, mount("xfs")), (GIB, GIB - 1, mount()), (GIB - 1, GIB - 1, mount())],
)
async def test_sizes_that_cannot_be_are_out_of_range(driver, size, limit, capability):
    request = csi_pb2.CreateVolumeRequest(
        name="a",
        capacity_range=csi_pb2.CapacityRange(required_bytes=size, limit_bytes=limit),
        volume_capabilities=[capability],
    )
    with pytest.raises(InvalidArgumentError) as caught:
        await driver.controller.CreateVolume(request, None)
    assert caught.value.code == "size_out_of_range" or size > limit


async def test_a_small_xfs_volume_is_refused_with_the_size_that_works(driver):
    with pytest.raises(InvalidArgumentError, match="300") as caught:
        await driver.create(size=299 * MIB, capability=mount("xfs"))
    assert status_of(caught.value).name == "OUT_OF_RANGE"
    assert await driver.create(size=300 * MIB, capability=mount("xfs"))


@pytest.mark.parametrize(
    "capability",
    [
        mount(mode=MODE.MULTI_NODE_MULTI_WRITER),
        mount(mode=MODE.MULTI_NODE_READER_ONLY),
        mount("ntfs"),
        mount(flags=["nobarrier"]),
        mount(flags=["noatime,loop=/dev/sda"]),
        csi_pb2.VolumeCapability(access_mode=MODE(mode=MODE.SINGLE_NODE_WRITER)),
    ],
)
async def test_capabilities_that_are_not_claimed_are_refused(driver, capability):
    with pytest.raises(InvalidArgumentError):
        await driver.create(capability=capability)


async def test_a_topology_of_another_cluster_is_refused(driver):
    elsewhere = csi_pb2.TopologyRequirement(requisite=[topology.segment(OTHER)])
    with pytest.raises(NoSpaceError):
        await driver.create(accessibility_requirements=elsewhere)


async def test_deleting_is_repeatable_and_a_malformed_id_names_nothing(driver):
    volume = await driver.create()
    for volume_id in (volume.volume_id, volume.volume_id, "not-an-id"):
        request = csi_pb2.DeleteVolumeRequest(volume_id=volume_id)
        await driver.controller.DeleteVolume(request, None)
    assert not driver.manager.volumes


async def test_deleting_a_volume_of_another_cluster_is_an_error_not_a_success(driver):
    request = csi_pb2.DeleteVolumeRequest(volume_id=f"{OTHER}/0000000000000001")
    with pytest.raises(InvalidArgumentError) as caught:
        await driver.controller.DeleteVolume(request, None)
    assert caught.value.code == "wrong_cluster"


async def test_a_published_volume_is_not_deleted(driver):
    volume = await driver.published()
    with pytest.raises(ConflictError):
        await driver.controller.DeleteVolume(
            csi_pb2.DeleteVolumeRequest(volume_id=volume.volume_id), None
        )


async def test_a_writer_on_a_second_node_fails_until_the_first_is_unpublished(driver):
    volume = await driver.published()
    with pytest.raises(ConflictError) as caught:
        await driver.publish(volume.volume_id, "block-2")
    assert status_of(caught.value).name == "FAILED_PRECONDITION"
    request = csi_pb2.ControllerUnpublishVolumeRequest(
        volume_id=volume.volume_id, node_id="block-1"
    )
    for _ in range(2):
        await driver.controller.ControllerUnpublishVolume(request, None)
    assert await driver.publish(volume.volume_id, "block-2") == {"mode": "rw"}


async def test_publishing_again_in_another_mode_already_exists(driver):
    volume = await driver.published()
    with pytest.raises(ConflictError) as caught:
        await driver.publish(volume.volume_id, readonly=True)
    assert status_of(caught.value).name == "ALREADY_EXISTS"


async def test_publishing_to_a_node_that_does_not_exist_is_not_found(driver):
    volume = await driver.create()
    with pytest.raises(NotFoundError):
        await driver.publish(volume.volume_id, "block-77")


async def test_paging_goes_on_after_the_last_volume_of_a_page_was_deleted(driver):
    volumes = [await driver.create(name=f"v{n}") for n in range(5)]
    first = await driver.controller.ListVolumes(csi_pb2.ListVolumesRequest(max_entries=2), None)
    await driver.manager.delete_volume(first.next_token)
    rest = await driver.controller.ListVolumes(
        csi_pb2.ListVolumesRequest(starting_token=first.next_token), None
    )
    found = [entry.volume.volume_id for entry in [*first.entries, *rest.entries]]
    assert found == [volume.volume_id for volume in volumes]
    assert rest.next_token == ""


async def test_a_token_that_was_never_given_out_aborts(driver):
    with pytest.raises(InvalidArgumentError) as caught:
        await driver.controller.ListVolumes(csi_pb2.ListVolumesRequest(starting_token="x"), None)
    assert status_of(caught.value).name == "ABORTED"


async def test_capacity_is_none_elsewhere_and_for_what_is_not_supported(driver):
    async def available(**fields):
        request = csi_pb2.GetCapacityRequest(**fields)
        return (await driver.controller.GetCapacity(request, None)).available_capacity

    assert await available() == driver.manager.available
    assert await available(accessible_topology=topology.segment(CLUSTER)) > 0
    assert await available(accessible_topology=topology.segment(OTHER)) == 0
    assert await available(volume_capabilities=[mount(mode=MODE.MULTI_NODE_MULTI_WRITER)]) == 0


async def test_growing_is_repeatable_and_never_shrinks(driver):
    volume = await driver.create(size=GIB)

    async def expand(size):
        request = csi_pb2.ControllerExpandVolumeRequest(
            volume_id=volume.volume_id,
            capacity_range=csi_pb2.CapacityRange(required_bytes=size),
        )
        return await driver.controller.ControllerExpandVolume(request, None)

    assert (await expand(2 * GIB)).capacity_bytes == 2 * GIB
    again = await expand(GIB + 1)
    assert (again.capacity_bytes, again.node_expansion_required) == (2 * GIB, True)


async def test_capabilities_that_are_supported_are_confirmed_and_others_explained(driver):
    volume = await driver.create()

    async def ask(capability):
        request = csi_pb2.ValidateVolumeCapabilitiesRequest(
            volume_id=volume.volume_id, volume_capabilities=[capability]
        )
        return await driver.controller.ValidateVolumeCapabilities(request, None)

    assert (await ask(block())).HasField("confirmed")
    refused = await ask(mount(mode=MODE.MULTI_NODE_MULTI_WRITER))
    assert not refused.HasField("confirmed")
    assert "MULTI_NODE_MULTI_WRITER" in refused.message
