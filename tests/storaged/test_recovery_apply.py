"""The change of the store: whole, refused while somebody leads, begun again after any crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drystone_common.errors import ConflictError, DataError
from drystone_storaged.cluster import keys, recovery
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.drives import DriveService
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.records import DriveState, JoinToken, Suspicion
from drystone_storaged.cluster.scans import (
    NodeScan,
    ScannedDrive,
    ScannedPg,
    ScannedTicket,
    ScannedVolume,
    StoredRole,
)
from drystone_storaged.cluster.store import Put
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.manager.known_revision import KnownRevision
from drystone_storaged.manager.recovery import apply as applying
from drystone_storaged.manager.recovery.apply import leading, raise_revision
from drystone_storaged.manager.recovery.load import load_backup
from drystone_storaged.manager.recovery.run import Recoverer
from drystone_storaged.manager.settings import ManagerSettings
from tests.storaged.cluster_env import MASTER, caller, cluster

SEEN = 700
NEW = ScannedVolume(
    900, 2, 2, ScannedTicket(1, 2, 1 << 20, 1, 8, (901,)), layers=(901,), end_block=9
)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(recovery, "REVISION_GAP", 200)  # each is a write


class EndedError(Exception):
    """The process ends here."""


async def a_copy(folder: Path) -> tuple[NodeScan, ...]:
    """A store with three drives, a pool and an attached volume; gives what the drives say now."""
    async with cluster(folder) as env:
        volume = await env.add_volume()
        await env.attached(volume, caller(1), 77)
        await env.store.txn(
            [],
            [
                Put(keys.join_token("ab"), encode(JoinToken("server"))),
                Put(keys.suspect("cd"), encode(Suspicion("cd"))),
            ],
        )
        state = await env.state()
        found = []
        for number, drive in state.drives.items():
            role = StoredRole.IN_SYNC if number != 3 else StoredRole.JOINING
            pgs = tuple(
                ScannedPg(ref.pool, ref.pg, 9, role, 9, 9, objects=1) for ref in state.pgs()
            )
            one = ScannedDrive(
                drive.uuid, number, state.cluster.uuid, "/d", drive.addr, drive.serial,
                drive.capacity, 4_000 + number, 1, SEEN, pgs=pgs, volumes=(NEW,),
            )  # fmt: skip
            found.append(NodeScan(state.cluster.uuid, drive.node_name, drive.node, 99, (one,)))
    (folder / "m.db").rename(folder / "store.sqlite")
    (folder / "master.key").write_text(MASTER.hex())
    return tuple(found)


def recoverer(folder: Path, scans, **more) -> Recoverer:
    settings = ManagerSettings(state_dir=folder)
    return Recoverer(settings, tuple(scans), frozenset(), 99, 55, **more)


async def known(folder: Path, store) -> KnownRevision:
    return KnownRevision(store, Leadership(store, "m"), "c", folder)


async def check(folder: Path) -> None:
    """The store is whole, and a manager may lead it."""
    store = await SqliteStore.open(folder / "store.sqlite")
    try:
        found = await load_backup(store)
        assert found.incarnation == 2
        assert found.revision > SEEN
        assert {r.insync for r in found.pgs.values()} <= {(1, 2), (2, 1)}
        assert all(r.epoch > 9 for r in found.pgs.values())
        assert {v.name for v in found.volumes} == {"v", "recovered-0000000000000384"}
        assert all(not v.attachments and not v.clean for v in found.volumes)
        assert not (await store.range("/recovery")).items
        assert not (await store.range(keys.SUSPECTS)).items
        assert not (await store.range(keys.JOIN_TOKENS)).items
        await (await known(folder, store)).check()
        # What the drives hold is opened by the nonce that is on them, and their revision counts.
        drive = found.drives[2]
        assert (drive.state, drive.nonce) == (DriveState.UP, 4_002)
        number = await IdAllocator(store).take("object")
        assert number > 901
        assert (await DriveService(store, IdAllocator(store)).find("2")).id == 2
    finally:
        await store.close()


async def test_a_recovery_writes_everything_and_a_manager_leads_again(tmp_path):
    scans = await a_copy(tmp_path)
    _, found = await recoverer(tmp_path, scans).run(write=True)
    assert found.refusals == ()
    await check(tmp_path)
    # And again, with the same scans: the same is in sync, every number only rises.
    _, again = await recoverer(tmp_path, scans).run(write=True)
    assert again.refusals == ()
    assert again.incarnation == 3


async def test_a_recovery_that_ends_anywhere_is_begun_again_and_nobody_leads_meanwhile(tmp_path):
    stops = 0
    while True:
        folder = tmp_path / str(stops)
        folder.mkdir()
        scans = await a_copy(folder)
        left = stops

        def step(_what: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise EndedError

        try:
            await recoverer(folder, scans, step=step).run(write=True)
        except EndedError:
            pass
        else:
            break
        store = await SqliteStore.open(folder / "store.sqlite")
        try:
            if await store.get(keys.RECOVERY) is not None:
                with pytest.raises(DataError) as caught:
                    await (await known(folder, store)).check()
                assert caught.value.code == "recovery_unfinished"
        finally:
            await store.close()
        await recoverer(folder, scans).run(write=True) if not await done(folder) else None
        await check(folder)
        stops += 1
    assert stops >= 4


async def done(folder: Path) -> bool:
    store = await SqliteStore.open(folder / "store.sqlite")
    try:
        found = await store.get(keys.INCARNATION)
        return found is not None and found.value == b"2"
    finally:
        await store.close()


async def test_a_plan_or_a_refusal_changes_nothing(tmp_path):
    scans = await a_copy(tmp_path)
    store = await SqliteStore.open(tmp_path / "store.sqlite")
    before = (await store.range("/")).items
    await store.close()
    await recoverer(tmp_path, scans).run(write=False)
    _, found = await recoverer(tmp_path, scans[:2]).run(write=True)
    assert found.refusals
    store = await SqliteStore.open(tmp_path / "store.sqlite")
    try:
        assert (await store.range("/")).items == before
    finally:
        await store.close()


async def test_a_store_that_is_open_elsewhere_missing_or_anothers_is_refused(tmp_path):
    scans = await a_copy(tmp_path)
    store = await SqliteStore.open(tmp_path / "store.sqlite")
    with pytest.raises(ConflictError) as caught:
        await recoverer(tmp_path, scans).run(write=False)
    assert caught.value.code == "store_locked"
    await store.close()
    (tmp_path / "master.key").write_text(bytes(32).hex())
    with pytest.raises(DataError) as damaged:
        await recoverer(tmp_path, scans).run(write=True)
    assert damaged.value.code == "master_mismatch"
    empty = tmp_path / "empty"
    with pytest.raises(DataError) as damaged:
        await recoverer(empty, scans).run(write=True)
    assert damaged.value.code == "store_missing"


async def test_whoever_leads_a_shared_store_is_not_put_out(tmp_path, monkeypatch):
    monkeypatch.setattr(applying, "LEAD_WAIT_S", 0.0)
    await a_copy(tmp_path)
    store = await SqliteStore.open(tmp_path / "store.sqlite")
    try:
        leader = Leadership(store, "manager-9")
        assert await leader.campaign()
        with pytest.raises(ConflictError, match="manager-9 leads"):
            async with leading(store, "recover"):
                raise AssertionError
        await leader.resign()
        async with leading(store, "recover") as mine:
            await mine.txn([], [Put("/recovery", b"1")])
    finally:
        await store.close()


async def test_a_copy_that_is_too_far_behind_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(applying, "RAISE_MAX", 10)
    scans = await a_copy(tmp_path)
    far = [replace(s, drives=tuple(replace(d, revision=10**9) for d in s.drives)) for s in scans]
    with pytest.raises(ConflictError) as caught:
        await recoverer(tmp_path, far).run(write=True)
    assert "--bump-revision" in (caught.value.hint or "")


async def test_the_revision_is_counted_up_and_leaves_no_keys(tmp_path):
    store = await SqliteStore.open(tmp_path / "s")
    try:
        await raise_revision(store, 300)
        assert await store.revision() >= 300
        assert not (await store.range("/")).items
    finally:
        await store.close()


async def test_what_a_server_has_seen_keeps_a_manager_from_an_older_store(tmp_path):
    await a_copy(tmp_path)
    store = await SqliteStore.open(tmp_path / "store.sqlite")
    try:
        leadership = Leadership(store, "m")

        def leads() -> bool:
            return leadership.leads

        guard = KnownRevision(store, leadership, "c", tmp_path)
        assert await leadership.campaign()
        leadership.begin()
        await guard.heard(1, await store.revision(), "n1")
        assert leads()
        await guard.heard(1, 2**63, "n1")
        await guard.heard(2**40, SEEN, "n1")
        assert leads(), "no number of a store is so large"
        with pytest.raises(DataError) as caught:
            await guard.heard(1, SEEN, "n1")
        assert caught.value.code == "store_too_old"
        assert "the server n1 has seen" in str(caught.value)
        assert "drystone recover metadata" in (caught.value.hint or "")
        assert not leads()
        with pytest.raises(DataError):
            await leadership.campaign()
        await store.txn([], [Put(keys.INCARNATION, b"2")])
        assert await leadership.campaign(), "a recovered store begins a new count"
    finally:
        await store.close()
