from __future__ import annotations

import asyncio
import uuid

import pytest

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    DrystoneError,
    InvalidArgumentError,
    UnauthenticatedError,
    UnavailableError,
)
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.drives import EvidenceExpiredError
from drystone_storaged.cluster.leadership import Leadership, NotLeaderError
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import Evidence, MembershipService
from drystone_storaged.cluster.nodes import Registration
from drystone_storaged.cluster.pools import PoolSpec
from drystone_storaged.cluster.records import (
    AttachMode,
    Content,
    ContentState,
    DriveState,
    FailureDomain,
    Node,
    Order,
)
from drystone_storaged.cluster.store import Compare, Put
from drystone_storaged.cluster.volumes import VolumeSpec
from tests.storaged.cluster_env import GIB, caller, cluster


@pytest.fixture
async def env(tmp_path):
    async with cluster(tmp_path) as env:
        yield env


def now(env, reason="test") -> Evidence:
    return Evidence(reason, env.clock())


async def test_a_drop_leaves_the_drive_out_of_every_pg(env):
    done = await env.membership.drop([1], now(env))
    state = await env.state()
    assert len(done.changed) == 64
    assert done.revision == state.revision
    assert all(1 not in record.members() for record in state.pgs().values())


async def test_a_returning_drive_joins_and_is_promoted_in_its_epoch(env):
    await env.membership.drop([1], now(env))
    await env.membership.join_wanted()
    state = await env.state()
    wanted = {ref: [(1, record.epoch)] for ref, record in state.pgs().items()}
    assert all(r.joiner(1) is not None and r.joiner(1).e0 == 1 for r in state.pgs().values())
    done = await env.membership.promote(wanted)
    assert not done.refused
    assert all(len(r.insync) == 3 for r in (await env.state()).pgs().values())
    # A lost answer: the same call again is no refusal, the drives are in sync.
    assert not (await env.membership.promote(wanted)).refused


async def test_a_promotion_in_a_stale_epoch_is_refused(env):
    await env.membership.drop([1], now(env))
    await env.membership.join_wanted()
    epochs = {ref: [(1, record.epoch)] for ref, record in (await env.state()).pgs().items()}
    await env.membership.drop([2], now(env))
    done = await env.membership.promote(epochs)
    assert len(done.refused) == 64
    assert all(1 not in r.insync for r in (await env.state()).pgs().values())


async def test_concurrent_drops_never_empty_a_pg(env):
    await asyncio.gather(*(env.membership.drop([n], now(env)) for n in (1, 2, 3)))
    records = (await env.state()).pgs().values()
    assert all(len(record.insync) == 1 for record in records)


async def test_old_evidence_is_void(env):
    evidence = now(env)
    env.clock.advance(5.1)
    with pytest.raises(EvidenceExpiredError):
        await env.membership.drop([1], evidence)


async def test_a_deposed_leader_changes_nothing(env):
    found = await env.store.get(keys.LEADER)
    assert found is not None
    await env.store.lease_revoke(found.lease)
    other = Leadership(env.store, "manager-2")
    assert await other.campaign()
    before = (await env.state()).pgs()
    with pytest.raises(NotLeaderError):
        await env.membership.drop([1], now(env))
    assert (await env.state()).pgs() == before
    successor = MembershipService(env.store, other, monotonic=env.clock, wall=env.clock)
    assert (await successor.drop([1], now(env))).changed


async def test_a_drop_whose_suspicion_was_withdrawn_does_nothing(env):
    before = (await env.state()).pgs()
    with pytest.raises(EvidenceExpiredError):
        await env.membership.drop([1], now(env), conditions=[Compare.mod(keys.suspect("a"), 12345)])
    assert (await env.state()).pgs() == before


async def test_a_drop_is_void_when_the_drive_was_opened_again_meanwhile(env):
    state = await env.state()
    drive = state.drives[1]
    node = await env.nodes.by_uuid("server", drive.node)
    assert node is not None
    await env.drives.open(node, env.open_request("drive-1", 8, 7), lambda _: False)
    with pytest.raises(EvidenceExpiredError):
        await env.drives.set_down({1: state.drive_revisions[1]}, "refused", ended=True)


async def test_mark_lost_is_refused_while_a_copy_is_up(env):
    with pytest.raises(ConflictError) as caught:
        await env.membership.mark_lost(PgRef(1, 0))
    assert caught.value.code == "pg_not_lost"


async def test_mark_lost_gives_the_pg_to_what_is_left(env):
    await env.membership.drop([1, 2], now(env))
    state = await env.state()
    await env.drives.set_down({3: state.drive_revisions[3]}, "gone", ended=True)
    changed, record, _ = await env.membership.mark_lost(PgRef(1, 5))
    assert changed.changed == (PgRef(1, 5),)
    assert record.insync[0] in (1, 2)
    assert all(o.e0 == 0 for o in record.out)


async def test_creating_a_volume_twice_gives_the_same_one(env):
    spec = VolumeSpec("a", GIB, attributes={"k": "v"})
    first, created = await env.volumes.create(spec)
    second, again = await env.volumes.create(spec)
    assert (created, again) == (True, False)
    assert first == second


async def test_concurrent_creates_of_one_name_make_one_volume(env):
    spec = VolumeSpec("a", GIB)
    results = await asyncio.gather(*(env.volumes.create(spec) for _ in range(10)))
    assert len({volume.id for volume, _ in results}) == 1
    assert sum(created for _, created in results) == 1


async def test_the_same_name_with_another_size_is_refused(env):
    await env.volumes.create(VolumeSpec("a", GIB))
    with pytest.raises(AlreadyExistsError) as caught:
        await env.volumes.create(VolumeSpec("a", 2 * GIB))
    assert caught.value.code == "volume_exists"


@pytest.mark.parametrize("size", [0, -1, 1, 4097, (64 << 40) + 4096])
async def test_impossible_sizes_are_refused(env, size):
    with pytest.raises(InvalidArgumentError) as caught:
        await env.volumes.create(VolumeSpec("a", size))
    assert caught.value.code == "size_out_of_range"


async def test_a_csi_name_has_an_index_that_goes_with_the_volume(env):
    name = "csi-" + "a" * 40
    volume, _ = await env.volumes.create(VolumeSpec(name, GIB, attributes={"csi.name": "pvc ä"}))
    assert await env.store.get(keys.name("csi", "a" * 40)) is not None
    await env.volumes.delete(volume.id)
    assert await env.store.get(keys.name("csi", "a" * 40)) is None


async def test_volumes_grow_and_never_shrink(env):
    volume = await env.add_volume()
    grown = await env.volumes.resize(volume.id, 2 * GIB)
    assert (grown.size, grown.ticket_serial) == (2 * GIB, volume.ticket_serial + 1)
    assert await env.volumes.resize(volume.id, 2 * GIB) == grown
    with pytest.raises(ConflictError) as caught:
        await env.volumes.resize(volume.id, GIB)
    assert caught.value.code == "size_shrink"


async def test_content_moves_only_forwards_and_by_compare_and_set(env):
    volume = await env.add_volume()
    never = Content()
    mine = Content(ContentState.FORMATTING, "ext4", "n1")
    theirs = Content(ContentState.FORMATTING, "ext4", "n2")
    await env.volumes.set_content(volume.id, never, mine)
    await env.volumes.set_content(volume.id, never, mine)
    with pytest.raises(ConflictError):
        await env.volumes.set_content(volume.id, never, theirs)
    done = Content(ContentState.FS, "ext4")
    assert (await env.volumes.set_content(volume.id, mine, done)).content == done
    with pytest.raises(InvalidArgumentError):
        await env.volumes.set_content(volume.id, done, never)


async def test_an_order_whose_number_is_taken_is_left_as_it_is(env):
    """A recovered store may hold orders above the counter that was in the copy."""
    one, two = await env.add_volume(), await env.add_volume("two")
    await env.volumes.delete(one.id)
    (first,) = [decode(Order, kv.value) for kv in (await env.store.range(keys.ORDERS)).items]
    taken = Order(first.id + 1, one.pool, 4_711)
    await env.store.txn([], [Put(keys.order(taken.pool, taken.id), encode(taken))])
    await env.volumes.delete(two.id)
    orders = [decode(Order, kv.value) for kv in (await env.store.range(keys.ORDERS)).items]
    assert {o.layer for o in orders} == {one.head, taken.layer, two.head}


async def test_a_volume_in_use_is_not_deleted(env):
    volume = await env.add_volume()
    await env.fence.publish(volume.id, "block-1", AttachMode.READ_WRITE)
    with pytest.raises(ConflictError) as caught:
        await env.volumes.delete(volume.id)
    assert caught.value.code == "volume_in_use"


async def test_volumes_are_listed_by_id_across_a_deleted_cursor(env):
    made = [await env.add_volume(f"v{i}") for i in range(5)]
    page, more = await env.volumes.list(0, 2)
    assert [v.id for v in page] == [v.id for v in made[:2]]
    assert more
    await env.volumes.delete(page[-1].id)
    rest, more = await env.volumes.list(page[-1].id, 10)
    assert [v.id for v in rest] == [v.id for v in made[2:]]
    assert not more


async def test_an_order_waits_for_the_drive_that_is_away(env):
    volume = await env.add_volume()
    node = await env.nodes.by_uuid("server", (await env.state()).drives[3].node)
    assert node is not None
    await env.membership.drop([3], now(env))
    await env.drives.report(node, 3, 7, DriveState.DOWN, "away")
    await env.volumes.delete(volume.id)
    assert await env.orders.run() == 1
    assert {drive for _, drive in env.servers.freed} == {1, 2}
    assert [o.layer for o in await env.orders.pending(3, {1})] == [volume.head]
    # It returns: as a joiner its confirmation does not count yet.
    await env.drives.report(node, 3, 7, DriveState.UP, "")
    await env.membership.join_wanted()
    assert await env.orders.run() == 1
    epochs = {ref: [(3, record.epoch)] for ref, record in (await env.state()).pgs().items()}
    await env.membership.promote(epochs)
    assert await env.orders.run() == 0
    assert await env.store.get(keys.layer(volume.head)) is None


async def test_a_pool_prefers_nodes_as_failure_domain(env):
    pool = await env.pools.find("default")
    assert (pool.failure_domain, pool.width, pool.pg_count) == (FailureDomain.NODE, 3, 64)


async def test_one_server_with_three_drives_makes_a_pool_too(tmp_path):
    async with cluster(tmp_path, 1, pool=False) as env:
        node = await env.nodes.by_uuid("server", (await env.state()).drives[1].node)
        assert node is not None
        for name in ("x", "y"):
            await env.add_drive(node, name)
        pool, created = await env.pools.create(PoolSpec("p", 3, 2))
        assert created
        assert (pool.failure_domain, pool.width) == (FailureDomain.DRIVE, 3)
        again, created = await env.pools.create(PoolSpec("p", 3, 2))
        assert (again, created) == (pool, False)
        with pytest.raises(AlreadyExistsError):
            await env.pools.create(PoolSpec("p", 2, 2))


async def test_a_copied_drive_an_old_image_and_a_foreign_one_are_refused(env):
    drive = (await env.state()).drives[1]
    node = await env.nodes.by_uuid("server", drive.node)
    other = await env.nodes.by_uuid("server", (await env.state()).drives[2].node)
    opened = env.open_request("drive-1", 8, 7)

    async def refused(request, at=node, lives=False) -> str:
        with pytest.raises(DrystoneError) as caught:
            await env.drives.open(at, request, lambda _: lives)
        return caught.value.code

    assert await refused(env.open_request("drive-1", 8, 6)) == "drive_nonce_stale"
    assert await refused(env.open_request("drive-1", 8, 0)) == "drive_nonce_stale"
    assert await refused(env.open_request("drive-1", 8, 7, serial="x")) == "drive_serial_mismatch"
    assert await refused(opened, other, lives=True) == "drive_held"
    foreign = env.open_request("drive-1", 8, 7, cluster=str(uuid.uuid4()))
    assert await refused(foreign) == "wrong_cluster"
    newer = env.open_request("drive-1", 8, 7, highest_revision=10**9)
    assert await refused(newer) == "store_too_old"
    assert await refused(env.open_request("nobody", 8, 7)) == "drive_unknown"


async def opener(env):
    """The node of drive 1, and what opens the drive there."""
    node = await env.nodes.by_uuid("server", (await env.state()).drives[1].node)

    async def open_with(nonce, previous):
        request = env.open_request("drive-1", nonce, previous)
        return (await env.drives.open(node, request, lambda _: False)).drive

    return node, open_with


async def test_an_open_that_crashed_before_the_superblock_can_be_repeated(env):
    node, open_with = await opener(env)
    await open_with(8, 7)
    assert (await open_with(8, 7)).nonce == 8
    await open_with(9, 7)
    # This time the superblock got 9, but READY never came.
    drive = await open_with(10, 9)
    assert (drive.nonce, drive.previous_nonce) == (10, 9)
    await env.drives.report(node, drive.id, 10, DriveState.UP, "")
    with pytest.raises(ConflictError):
        await open_with(11, 9)
    with pytest.raises(ConflictError):
        await env.drives.report(node, drive.id, 9, DriveState.UP, "")


async def test_an_open_that_comes_late_does_not_make_the_next_ones_drive_unknown(env):
    node, open_with = await opener(env)
    await open_with(9, 7)
    # The call of the process before this one; 9 was granted, and is on the drive.
    await open_with(8, 7)
    with pytest.raises(ConflictError):
        await env.drives.report(node, 1, 9, DriveState.UP, "")
    drive = await open_with(10, 9)
    assert (drive.nonce, drive.previous_nonce, drive.granted_nonces) == (10, 9, ())
    for older in (7, 8):  # images of before
        with pytest.raises(ConflictError):
            await open_with(11, older)
    await open_with(11, 9)
    drive = await env.drives.report(node, 1, 11, DriveState.UP, "")
    assert (drive.previous_nonce, drive.granted_nonces) == (0, ())
    for older in (9, 10):
        with pytest.raises(ConflictError):
            await open_with(12, older)


async def test_a_drive_that_is_opened_over_and_over_keeps_a_short_record(env):
    _, open_with = await opener(env)
    for nonce in range(100, 150):
        drive = await open_with(nonce, 7)
    assert drive.granted_nonces == tuple(range(133, 149))


async def test_a_new_drive_that_crashed_at_its_first_open_can_be_opened(env):
    node = await env.add_node("node-9")
    for nonce in (1, 2):
        await env.drives.open(node, env.open_request("fresh", nonce, 0), lambda _: False)


async def test_a_join_token_admits_one_node_and_a_lost_answer_is_repeated(env):
    await env.nodes.add_join_token("t" * 20, "server")
    node = Node("node-7", "7" * 32)
    await env.nodes.register(Registration("server", node, "t" * 20))
    await env.nodes.register(Registration("server", node, "t" * 20))
    with pytest.raises(UnauthenticatedError):
        await env.nodes.register(Registration("server", Node("node-8", "8" * 32), "t" * 20))
    with pytest.raises(UnauthenticatedError):
        await env.nodes.register(Registration("server", node, "wrong"))


async def test_a_name_stays_with_its_uuid_until_it_is_forgotten(env):
    await env.nodes.add_join_token("t" * 20, "client")
    await env.add_node("block-1", "client")
    impostor = Registration("client", Node("block-1", "9" * 32), "t" * 20)
    with pytest.raises(AlreadyExistsError) as caught:
        await env.nodes.register(impostor)
    assert caught.value.code == "node_name_taken"
    await env.nodes.forget("block-1")
    await env.nodes.register(impostor)


async def test_ids_are_unique_across_managers_and_restarts(env):
    from drystone_storaged.cluster.ids import IdAllocator

    allocators = [IdAllocator(env.store) for _ in range(3)]
    taken = await asyncio.gather(*(a.take("object") for a in allocators for _ in range(400)))
    assert len(set(taken)) == 1200


async def test_endless_contention_becomes_unavailable(env):
    from drystone_storaged.cluster.txn import retrying

    async def never():
        return None

    with pytest.raises(UnavailableError):
        await retrying(never, "x")


async def test_a_volume_of_a_stranger_cannot_be_ticketed(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    with pytest.raises(ConflictError):
        await env.attach.ticket(caller(2), volume.id, 11)


async def test_the_drives_of_a_node_go_down_together_or_not_at_all(env):
    state = await env.state()
    observed = {number: state.drive_revisions[number] for number in (1, 2, 3)}
    before = await env.store.revision()
    conditions = await env.drives.set_down(observed, "silent", ended=False)
    assert await env.store.revision() == before + 1, "one change of the map"
    assert len(conditions) == 3
    with pytest.raises(EvidenceExpiredError):
        await env.drives.set_down(observed, "silent", ended=False)
    node = await env.nodes.by_uuid("server", state.drives[1].node)
    up = await env.drives.report(node, 1, 7, DriveState.UP, "")
    mixed = {1: (await env.state()).drive_revisions[1], 2: observed[2]}
    with pytest.raises(EvidenceExpiredError):
        await env.drives.set_down(mixed, "silent", ended=False)
    assert (await env.state()).drives[1] == up, "nothing of it happened"
