from __future__ import annotations

import asyncio

import pytest

from drystone_common.errors import ConflictError, DeadlineError, NotFoundError
from drystone_storaged.cluster import codec
from drystone_storaged.cluster.fence import plan_fence
from drystone_storaged.cluster.records import (
    Attachment,
    AttachMode,
    AttachState,
    Fencing,
    Volume,
)
from drystone_storaged.cluster.store import StoreUnavailableError
from tests.storaged.cluster_env import caller, cluster

RW, RO = AttachMode.READ_WRITE, AttachMode.READ_ONLY


@pytest.fixture
async def env(tmp_path):
    async with cluster(tmp_path) as env:
        yield env


async def code_of(awaitable) -> str:
    with pytest.raises(Exception) as caught:
        await awaitable
    return getattr(caught.value, "code", repr(caught.value))


async def test_an_attach_raises_the_generation_and_makes_a_ticket(env):
    volume = await env.add_volume()
    done = await env.attached(volume, caller(1), 11)
    assert (done.volume.generation, done.volume.owner, done.needs_recovery) == (1, 11, True)
    assert len(done.ticket) > 32
    assert not done.volume.clean


async def test_repeating_an_attach_changes_nothing(env):
    volume = await env.add_volume()
    first = await env.attached(volume, caller(1), 11)
    again = await env.attach.attach(caller(1), volume.id, RW, 11)
    assert again.volume == first.volume


async def test_an_attach_whose_answer_was_lost_is_found_again(env):
    volume = await env.add_volume()
    await env.fence.publish(volume.id, "block-1", RW)
    env.lossy.lose_next = True
    with pytest.raises(StoreUnavailableError):
        await env.attach.attach(caller(1), volume.id, RW, 11)
    again = await env.attach.attach(caller(1), volume.id, RW, 11)
    assert again.volume.generation == 1


async def test_an_attach_without_publication_is_refused(env):
    volume = await env.add_volume()
    assert await code_of(env.attach.attach(caller(1), volume.id, RW, 1)) == "not_published"
    await env.fence.publish(volume.id, "block-1", RO)
    assert await code_of(env.attach.attach(caller(1), volume.id, RW, 1)) == "not_published"


async def test_of_two_attachers_one_wins(env):
    volume = await env.add_volume()
    await env.volumes.update(volume.id, lambda v: v)
    for who in (1, 2):
        # Both published by an older rule: the record itself must hold against two writers.
        await env.volumes.update(volume.id, lambda v, w=who: _published(v, w))
    results = await asyncio.gather(
        *(env.attach.attach(caller(n), volume.id, RW, n) for n in (1, 2)), return_exceptions=True
    )
    errors = [r for r in results if isinstance(r, BaseException)]
    assert len(errors) == 1
    assert getattr(errors[0], "code", "") == "volume_attached"
    final = await env.volumes.find("v")
    assert (final.generation, len(final.attachments)) == (1, 1)


def _published(volume, number):
    from dataclasses import replace

    from drystone_storaged.cluster.records import Publication

    return replace(volume, publications=(*volume.publications, Publication(f"block-{number}", RW)))


async def test_a_new_nonce_of_the_same_client_replaces_its_attachment(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    again = await env.attach.attach(caller(1), volume.id, RW, 12)
    assert (again.volume.generation, len(again.volume.attachments)) == (2, 1)
    assert await code_of(env.attach.activate(caller(1), volume.id, 1, 11)) == "attachment_gone"


async def test_activation_needs_the_generation_it_sealed(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    done = await env.attach.activate(caller(1), volume.id, 1, 11)
    assert done.attachments[0].state is AttachState.ACTIVE
    again = await env.attach.activate(caller(1), volume.id, 1, 11)
    assert again == done
    await env.attach.readopt(caller(1), volume.id, (11,), 12)
    assert await code_of(env.attach.activate(caller(1), volume.id, 1, 12)) == "generation_moved"


async def test_a_superseded_attacher_cannot_activate_the_newcomers_record(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    await env.fence.unpublish(volume.id, "block-1")
    await env.attached(volume, caller(2), 22)
    assert await code_of(env.attach.activate(caller(1), volume.id, 1, 11)) == "attachment_gone"


async def test_a_clean_detach_leaves_a_clean_volume_and_an_unclean_one_does_not(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    await env.attach.activate(caller(1), volume.id, 1, 11)
    done = await env.attach.detach(caller(1), volume.id, 11, clean=True)
    assert done.clean
    assert not done.attachments
    await env.attach.attach(caller(1), volume.id, RW, 12)
    # Never activated: its roll-forward may be half done.
    done = await env.attach.detach(caller(1), volume.id, 12, clean=True)
    assert not done.clean


async def test_detaching_what_is_gone_is_a_success(env):
    volume = await env.add_volume()
    before = await env.volumes.find("v")
    assert await env.attach.detach(caller(1), volume.id, 99, clean=True) == before


async def test_a_restarted_client_readopts_by_either_nonce(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    env.lossy.lose_next = True
    with pytest.raises(StoreUnavailableError):
        await env.attach.readopt(caller(1), volume.id, (11,), 12)
    # It crashed without the answer: the next start knows 11 and 12 and takes 13.
    done = await env.attach.readopt(caller(1), volume.id, (11, 12), 13)
    assert (done.volume.generation, done.volume.owner, done.needs_recovery) == (3, 13, True)
    assert (await env.attach.readopt(caller(1), volume.id, (11, 12), 13)).volume == done.volume


async def test_after_a_forced_detach_a_client_cannot_readopt(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    await env.fence.fence(volume.id, nonce=11)
    assert await code_of(env.attach.readopt(caller(1), volume.id, (11,), 12)) == "attachment_gone"


async def test_another_client_cannot_readopt_with_a_stolen_nonce(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    assert await code_of(env.attach.readopt(caller(2), volume.id, (11,), 12)) == "attachment_gone"


async def test_readers_share_one_generation(env):
    volume = await env.add_volume()
    first = await env.attached(volume, caller(1), 11, RO)
    second = await env.attached(volume, caller(2), 22, RO)
    assert (first.volume.generation, second.volume.generation) == (1, 1)
    assert second.volume.owner == 11
    assert second.needs_recovery
    await env.attach.activate(caller(1), volume.id, 1, 11)
    third = await env.attached(volume, caller(3), 33, RO)
    assert not third.needs_recovery
    assert third.volume.generation == 1


async def test_a_writer_is_refused_beside_readers(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11, RO)
    with pytest.raises(ConflictError) as caught:
        await env.fence.publish(volume.id, "block-2", RW)
    assert caught.value.code == "volume_published_elsewhere"


async def test_a_fence_raises_the_generation_and_is_proven_on_every_drive(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    done = await env.fence.fence(volume.id, nonce=11)
    assert (done.generation, done.attachments, done.fencing) == (2, (), None)
    assert [p.node for p in done.publications] == ["block-1"]
    assert {g for (v, _), g in env.servers.sealed.items() if v == volume.id} == {2}
    assert len(env.servers.sealed) == 3


async def test_a_repeated_fence_never_hits_the_new_owner(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    await env.fence.unpublish(volume.id, "block-1")
    after = await env.attached(volume, caller(2), 22)
    for which in ({"nonce": 11}, {"generation": 1}, {"node": "block-1"}):
        again = await env.fence.fence(volume.id, **which)
        assert again.generation == after.volume.generation
        assert again.attachments == after.volume.attachments


async def test_an_unproven_fence_is_reported_and_goes_on_when_repeated(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    env.servers.silent = {2}
    with pytest.raises(DeadlineError) as caught:
        await env.fence.unpublish(volume.id, "block-1")
    assert caught.value.code == "fence_unproven"
    half = await env.volumes.find("v")
    assert half.attachments == ()
    assert [p.node for p in half.publications] == ["block-1"]
    # The record remembers: nobody else may be published before the proof.
    with pytest.raises(ConflictError):
        await env.fence.publish(volume.id, "block-2", RW)
    env.servers.silent = set()
    done = await env.fence.unpublish(volume.id, "block-1")
    assert (done.generation, done.publications, done.fencing) == (2, (), None)


async def test_a_fence_is_proven_when_the_silent_drive_is_dropped(env):
    from drystone_storaged.cluster.membership_service import Evidence

    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    env.servers.silent = {2}
    await env.membership.drop([2], Evidence("test", env.clock()))
    done = await env.fence.unpublish(volume.id, "block-1")
    assert done.fencing is None


async def test_unpublishing_where_nothing_is_attached_fences_nobody(env):
    volume = await env.add_volume()
    await env.fence.publish(volume.id, "block-1", RW)
    done = await env.fence.unpublish(volume.id, "block-1")
    assert (done.generation, done.publications) == (0, ())
    assert await env.fence.unpublish(volume.id, None) == done


async def test_a_fence_of_one_reader_reseals_the_others(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11, RO)
    await env.attached(volume, caller(2), 22, RO)
    await env.attach.activate(caller(1), volume.id, 1, 11)
    done = await env.fence.unpublish(volume.id, "block-1")
    assert [a.node for a in done.attachments] == ["block-2"]
    ticket = await env.attach.ticket(caller(2), volume.id, 22)
    assert ticket.needs_recovery
    assert ticket.volume.generation == 2


async def test_publishing_again_is_a_success_and_another_mode_is_not(env):
    volume = await env.add_volume()
    first = await env.fence.publish(volume.id, "block-1", RW)
    assert await env.fence.publish(volume.id, "block-1", RW) == first
    assert await code_of(env.fence.publish(volume.id, "block-1", RO)) == "volume_mode_conflict"


async def test_attaching_a_missing_volume_says_so(env):
    with pytest.raises(NotFoundError):
        await env.attach.attach(caller(1), 999, RW, 1)


async def test_a_node_cannot_attach_again_while_its_fence_is_unproven(env):
    volume = await env.add_volume()
    await env.attached(volume, caller(1), 11)
    env.servers.silent = {2}
    with pytest.raises(DeadlineError):
        await env.fence.unpublish(volume.id, "block-1")
    assert await code_of(env.attach.attach(caller(1), volume.id, RW, 12)) == "fence_pending"


async def test_a_fence_without_proof_holds_up_no_other_volume_of_its_node(env):
    stuck, fine = await env.add_volume("stuck"), await env.add_volume("fine")
    for volume, nonce in ((stuck, 11), (fine, 12)):
        await env.attached(volume, caller(1), nonce)
    env.servers.deaf = {stuck.id}
    done = await env.fence.fence_node([stuck.id, fine.id], "block-1")
    assert [v.name for v in done.proven] == ["fine"]
    assert [v.name for v, _ in done.unproven] == ["stuck"]
    assert done.unproven[0][1].code == "fence_unproven"
    # Both are ordered, whatever the proof of one says.
    assert (await env.volumes.find("stuck")).attachments == ()
    assert (await env.volumes.find("fine")).fencing is None


async def test_a_pending_fence_knows_whom_it_is_of(env):
    stuck = await env.add_volume("stuck")
    await env.attached(stuck, caller(1), 11)
    env.servers.deaf = {stuck.id}
    with pytest.raises(DeadlineError):
        await env.fence.fence(stuck.id, node="block-1")
    pending = (await env.volumes.find("stuck")).fencing
    assert pending.of == ("block-1",)
    assert pending.concerns("block-1")
    assert not pending.concerns("block-2")


async def test_a_fence_that_is_not_known_whose_is_waited_for_by_everybody():
    old = codec.decode(Fencing, b'{"v":1,"generation":3,"nodes":["block-1"]}')
    assert old == Fencing(3, ("block-1",), None)
    assert old.concerns("block-2")
    attachment = Attachment("c" * 32, "block-1", 5, RW, AttachState.ACTIVE)
    volume = Volume(1, "v", 1, 4096, 0, (), generation=3, fencing=old, attachments=(attachment,))
    assert plan_fence(volume, 9, node="block-1").fencing == Fencing(4, ("block-1",), None)
