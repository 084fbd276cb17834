"""The driver's adapter against the manager itself: the two must mean the same."""

from __future__ import annotations

import pytest

from drystone_common.errors import ConflictError, DrystoneError, NotFoundError
from drystone_csi.manager_rest import RestManager
from drystone_csi.model import NEVER, AccessMode, Content, ContentState
from drystone_csi.status import status_of
from tests.storaged.manager_env import GIB, manager, peers

ATTRIBUTES = {"csi.name": "pvc-ü/1", "csi.mkfsOptions": "-m 0"}


@pytest.fixture
async def api(tmp_path):
    async with manager(tmp_path / "m") as real, peers(real, 3, 2):
        adapter = RestManager(str(real.http.base_url), real.tokens["operate"])
        yield adapter
        await adapter.aclose()


async def create(api, name="csi-1", size=GIB):
    return await api.create_volume(name, size, None, ATTRIBUTES)


async def test_a_volume_is_created_once_and_found_by_id_and_name(api):
    volume = await create(api)
    assert (volume.size, volume.pool, dict(volume.attributes)) == (GIB, "default", ATTRIBUTES)
    assert volume.content == NEVER
    assert await create(api) == volume
    assert await api.get_volume(volume.id) == await api.get_volume("csi-1") == volume


async def test_another_size_under_the_same_name_is_told_as_such(api):
    await create(api)
    with pytest.raises(DrystoneError) as caught:
        await create(api, size=2 * GIB)
    assert caught.value.code == "volume_exists"


async def test_cluster_health_and_capacity_answer(api):
    assert len(await api.cluster_uuid()) == 36
    assert await api.healthy()
    capacity = await api.capacity(None)
    assert 0 < capacity.available <= capacity.total
    with pytest.raises(NotFoundError):
        await api.capacity("nothing")


async def test_pages_are_in_the_order_of_ids_and_survive_deletions(api):
    volumes = [await create(api, f"csi-{number}") for number in range(5)]
    first = await api.list_volumes(2, None)
    await api.delete_volume(first.volumes[-1].id)
    rest = await api.list_volumes(10, first.next_cursor)
    assert [*first.volumes, *rest.volumes] == volumes
    assert rest.next_cursor is None
    with pytest.raises(DrystoneError) as caught:
        await api.list_volumes(2, "nonsense")
    assert status_of(caught.value).name == "ABORTED"


async def test_publishing_follows_the_rules_of_one_writer(api):
    volume = await create(api)
    for _ in range(2):
        await api.publish(volume.id, "block-1", AccessMode.READ_WRITE)
    assert (await api.get_volume(volume.id)).publications[0].node == "block-1"
    with pytest.raises(ConflictError) as caught:
        await api.publish(volume.id, "block-2", AccessMode.READ_WRITE)
    assert status_of(caught.value).name == "FAILED_PRECONDITION"
    with pytest.raises(ConflictError) as caught:
        await api.publish(volume.id, "block-1", AccessMode.READ_ONLY)
    assert status_of(caught.value).name == "ALREADY_EXISTS"
    with pytest.raises(NotFoundError):
        await api.publish(volume.id, "block-9", AccessMode.READ_WRITE)
    with pytest.raises(ConflictError):
        await api.delete_volume(volume.id)
    for _ in range(2):
        await api.unpublish(volume.id, "block-1")
    await api.publish(volume.id, "block-2", AccessMode.READ_ONLY)
    await api.unpublish(volume.id, None)
    for _ in range(2):
        await api.delete_volume(volume.id)


async def test_content_is_compared_and_set(api):
    volume = await create(api)
    formatting = Content(ContentState.FORMATTING, "ext4", "0123456789abcdef")
    await api.set_content(volume.id, NEVER, formatting)
    assert (await api.get_volume(volume.id)).content == formatting
    # The repetition of a call whose answer was lost is fine, another attempt is not.
    await api.set_content(volume.id, NEVER, formatting)
    other = Content(ContentState.FORMATTING, "ext4", "fedcba9876543210")
    with pytest.raises(ConflictError) as caught:
        await api.set_content(volume.id, NEVER, other)
    assert caught.value.code == "content_conflict"
    done = Content(ContentState.FS, "ext4")
    await api.set_content(volume.id, formatting, done)
    assert (await api.get_volume(volume.id)).content == done


async def test_a_volume_grows_and_growing_to_its_size_is_fine(api):
    volume = await create(api)
    for _ in range(2):
        assert (await api.resize_volume(volume.id, 2 * GIB)).size == 2 * GIB


async def test_what_is_not_there_is_not_found_or_gone_already(api):
    with pytest.raises(NotFoundError):
        await api.get_volume("00000000000000ff")
    await api.delete_volume("00000000000000ff")
    await api.unpublish("00000000000000ff", "block-1")


async def test_a_token_without_the_right_is_denied(tmp_path):
    async with manager(tmp_path / "m") as real:
        adapter = RestManager(str(real.http.base_url), real.tokens["read"])
        with pytest.raises(DrystoneError) as caught:
            await create(adapter)
        await adapter.aclose()
    assert status_of(caught.value).name == "PERMISSION_DENIED"
