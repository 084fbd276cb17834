"""What is wanted of nodes, in the metadata store: compare-and-swap, limits, one node a device."""

from __future__ import annotations

import asyncio

import pytest

from drystone_common.errors import ConflictError, InvalidArgumentError, NoSpaceError, NotFoundError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.nodes import NodeService
from drystone_storaged.cluster.records import Node
from drystone_storaged.cluster.store import Compare, Put
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.cluster.wanted import DRIVES_MAX, WantedService

ONE, TWO = Node("node-1", "1" * 32), Node("node-2", "2" * 32)


@pytest.fixture
async def store(tmp_path):
    store = await SqliteStore.open(tmp_path / "store.sqlite")
    for node in (ONE, TWO):
        index = f"server/{node.uuid}".encode()
        await store.txn(
            [], [Put(keys.node(node.uuid), encode(node)), Put(keys.name("node", node.name), index)]
        )
    yield store
    await store.close()


@pytest.fixture
def wanted(store):
    return WantedService(store)


async def add(wanted, node, device, *, protected=False):
    return await wanted.add(node, device, power_loss_protected=protected)


async def test_a_slot_stays_with_its_device_and_a_free_one_is_given_out_again(wanted):
    slots = [(await add(wanted, ONE, f"wwn:{n}"))[0].slot for n in range(3)]
    assert slots == [0, 1, 2]
    await wanted.remove(ONE, "wwn:1")
    record, _ = await wanted.of(ONE.uuid)
    assert [(d.device, d.slot) for d in record.drives] == [("wwn:0", 0), ("wwn:2", 2)]
    assert (await add(wanted, ONE, "file:/d/x.img"))[0].slot == 1


async def test_asking_twice_is_asking_once(wanted):
    first = await add(wanted, ONE, "wwn:1")
    again = await add(wanted, ONE, "wwn:1")
    assert (first[1], again) == (True, (first[0], False))


async def test_two_requests_at_the_same_time_for_one_device_make_one_drive(wanted):
    made = await asyncio.gather(*(add(wanted, ONE, "wwn:1") for _ in range(8)))
    assert sorted(added for _, added in made) == [False] * 7 + [True]
    assert {drive.slot for drive, _ in made} == {0}


async def test_requests_at_the_same_time_for_many_devices_get_a_slot_each(wanted):
    made = await asyncio.gather(*(add(wanted, ONE, f"wwn:{n}") for n in range(DRIVES_MAX)))
    assert sorted(drive.slot for drive, _ in made) == list(range(DRIVES_MAX))
    with pytest.raises(NoSpaceError) as caught:
        await add(wanted, ONE, "wwn:one-more")
    assert caught.value.code == "too_many_drives"


@pytest.mark.parametrize("device", ["wwn:5", "serial:QX-1"])
async def test_a_device_with_a_worldwide_name_belongs_to_one_node(wanted, device):
    results = await asyncio.gather(
        add(wanted, ONE, device), add(wanted, TWO, device), return_exceptions=True
    )
    (refused,) = [r for r in results if isinstance(r, Exception)]
    assert isinstance(refused, ConflictError)
    assert refused.code == "device_used_elsewhere"
    winner, loser = (ONE, TWO) if results[1] is refused else (TWO, ONE)
    assert await wanted.holders() == {device: winner.uuid}
    await wanted.remove(winner, device)
    assert (await add(wanted, loser, device))[1]


@pytest.mark.parametrize("device", ["file:/d/a.img", "pci:0000:00:05.0"])
async def test_names_of_one_machine_may_repeat_on_another(wanted, device):
    assert (await add(wanted, ONE, device))[1]
    assert (await add(wanted, TWO, device))[1]
    assert await wanted.holders() == {}


@pytest.mark.parametrize(
    "device",
    ["", "/dev/sda", "sda", "unnamed:/dev/sda", "wwn: 5", "wwn:é", "wwn:\n", "wwn:" + "x" * 300],
)
async def test_what_is_no_id_is_refused(wanted, device):
    with pytest.raises(InvalidArgumentError):
        await add(wanted, ONE, device)


async def test_what_is_not_wanted_cannot_be_removed_and_a_condition_that_broke_stops_it(wanted):
    with pytest.raises(NotFoundError):
        await wanted.remove(ONE, "wwn:1")
    await add(wanted, ONE, "wwn:1")
    with pytest.raises(ConflictError):
        await wanted.remove(ONE, "wwn:1", (Compare.mod(keys.node(ONE.uuid), 99_999),))
    assert len((await wanted.of(ONE.uuid))[0].drives) == 1


async def test_the_revision_of_what_is_wanted_only_grows(wanted):
    seen = [(await wanted.of(ONE.uuid))[1]]
    await add(wanted, ONE, "wwn:1")
    seen.append((await wanted.of(ONE.uuid))[1])
    await wanted.remove(ONE, "wwn:1")
    seen.append((await wanted.of(ONE.uuid))[1])
    assert seen == sorted(set(seen))
    assert seen[0] == 0


async def test_a_forgotten_node_leaves_its_devices_to_others(store, wanted):
    await add(wanted, ONE, "wwn:1")
    await NodeService(store).forget("node-1")
    assert await wanted.of(ONE.uuid) == ((await wanted.of(ONE.uuid))[0], 0)
    assert (await add(wanted, TWO, "wwn:1"))[1]
    with pytest.raises(NotFoundError):
        await add(wanted, ONE, "wwn:2")
