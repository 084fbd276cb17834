"""Scrubs that begin by themselves, and the task that compares a pool's copies."""

from __future__ import annotations

import pytest

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.records import Differing, Layer, LayerState, Scrubbed
from drystone_storaged.cluster.store import Delete, Put
from drystone_storaged.manager import compares
from drystone_storaged.manager.scrub_plan import DAY_S
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import peers, until

LAYER = 0x77
TOLD = pb.Divergent(
    volume=1, layer=LAYER, chunk=0, block=5, drive=2, here="data of version 1.7", there="nothing"
)


@pytest.fixture
async def three(mgr, monkeypatch):
    monkeypatch.setattr(compares, "AGAIN_S", 0.01)
    async with peers(mgr, 3, 0, pg_count=8) as made:
        yield mgr, made


async def ended(mgr, number: int) -> dict:
    shown: dict = {}

    async def over() -> bool:
        shown.update((await mgr.http.get(f"/v1/tasks/{number}")).json())
        return shown["state"] != "running"

    await until(over, "the end of the task")
    return shown


async def compare(mgr) -> dict:
    answer = await mgr.http.post("/v1/pools/default/compare")
    assert answer.status_code == 202, answer.text
    return await ended(mgr, answer.json()["id"])


async def problems(mgr) -> dict[str, dict]:
    return {p["code"]: p for p in (await mgr.http.get("/v1/status")).json()["problems"]}


def asked(made, kind: str) -> list:
    return [c for peer in made for c in peer.commands if c.WhichOneof("kind") == kind]


def finds(made, **fields) -> None:
    for peer in made:
        peer.compared = lambda command: pb.CommandResult(
            id=command.id, compared=pb.Compared(chunks=1, blocks=10, **fields)
        )


async def put_layer(mgr, state: LayerState) -> None:
    layer = Layer(LAYER, 1, 1, 1, 4096, state)
    await mgr.services.env.store.txn([], [Put(keys.layer(LAYER), encode(layer))])


async def test_a_pool_is_compared_group_by_group_and_told_in_words(three):
    mgr, made = three
    task = await compare(mgr)
    assert (task["state"], task["done"], task["total"]) == ("done", 8, 8)
    assert task["message"] == "80 blocks of 8 groups compared, all equal; 8 were being written"
    commands = asked(made, "compare")
    assert sorted(c.compare.pg for c in commands) == list(range(8))
    state = await mgr.services.feed.read()
    for command in commands:
        record = next(
            r for ref, r in state.pgs(command.compare.pool).items() if ref.pg == command.compare.pg
        )
        assert command.compare.drive == record.insync[0]
    shown = (await mgr.http.get("/v1/pools/default")).json()
    assert shown["scrub_days"] == 14
    assert shown["compare"]["divergent"] == 0
    assert "copies_differ" not in await problems(mgr)


async def test_copies_that_differ_are_a_critical_problem_until_they_do_not(three):
    mgr, made = three
    await put_layer(mgr, LayerState.HEAD)
    finds(made, divergent=1, examples=[TOLD])
    task = await compare(mgr)
    assert task["state"] == "done"
    assert "8 differ: group default/0, layer 0000000000000077, chunk 0, block 5" in task["message"]
    problem = (await problems(mgr))["copies_differ"]
    assert problem["severity"] == "critical"
    assert "data of version 1.7, but nothing on drive 2" in problem["text"]
    # A new leader knows it at once.
    mgr.services.scrubs.clear()
    assert "copies_differ" not in await problems(mgr)
    await mgr.services.take_over()
    assert "copies_differ" in await problems(mgr)
    # What is critical comes first, whatever else is wrong: the operator shows the first one.
    await mgr.services.env.store.txn([], [Put("/pool/strange", b"x")])
    await made[2].die()
    await until(lambda: _down(mgr), "the drive is down")
    told = [p["severity"] for p in (await mgr.http.get("/v1/status")).json()["problems"]]
    assert told == sorted(told)
    assert set(told) == {"critical", "warning"}


async def test_copies_that_differed_and_do_not_any_more_are_no_problem(three):
    mgr, made = three
    await put_layer(mgr, LayerState.HEAD)
    finds(made, divergent=1, examples=[TOLD])
    await compare(mgr)
    assert "copies_differ" in await problems(mgr)
    finds(made)
    await compare(mgr)
    assert "copies_differ" not in await problems(mgr)


async def test_a_group_that_differed_and_could_not_be_compared_again_differs_still(three):
    mgr, made = three
    await put_layer(mgr, LayerState.HEAD)
    finds(made, divergent=1, examples=[TOLD])
    assert "8 differ" in (await compare(mgr))["message"]
    # A drive is taken away for its repair: of its groups nothing new is known.
    finds(made)
    made[0].compared = lambda command: pb.CommandResult(id=command.id, code="failed", message="no")
    message = (await compare(mgr))["message"]
    asked_again = [c for c in asked(made[:1], "compare") if c.compare.drive == made[0].drive]
    skipped = {c.compare.pg for c in asked_again}
    assert 0 < len(skipped) < 8
    assert "all equal" not in message
    assert (
        f"{len(skipped)} groups could not be compared, {len(skipped)} of which differed before"
        in message
    )
    problem = (await problems(mgr))["copies_differ"]
    assert f"{len(skipped)} blocks of pool default differ" in problem["text"]
    assert f"group default/{min(skipped)}, layer" in problem["text"]
    assert f"{len(skipped)} groups could not be compared" in problem["text"]
    shown = (await mgr.http.get("/v1/pools/default")).json()["compare"]
    assert (shown["divergent"], shown["skipped"]) == (len(skipped), len(skipped))
    # It is back, with the right content.
    finds(made)
    assert "all equal" in (await compare(mgr))["message"]
    assert "copies_differ" not in await problems(mgr)


@pytest.mark.parametrize("state", [LayerState.DELETED, None])
async def test_what_differs_of_a_layer_that_is_being_deleted_is_nothing(three, state):
    mgr, made = three
    if state is not None:
        await put_layer(mgr, state)
    finds(made, divergent=1, examples=[TOLD])
    task = await compare(mgr)
    assert "all equal" in task["message"]
    assert len(asked(made, "compare")) == 8 * compares.TRIES, "it may have been deleted meanwhile"


async def test_bad_copies_and_groups_that_could_not_be_compared_are_told(three):
    mgr, made = three
    finds(made, bad_here=1, bad_there=2)
    made[0].compared = lambda command: pb.CommandResult(id=command.id, code="failed", message="no")
    task = await compare(mgr)
    assert task["state"] == "done"
    failed = sum(c.compare.drive == made[0].drive for c in asked(made, "compare"))
    assert failed % compares.TRIES == 0
    skipped = failed // compares.TRIES
    assert 0 < skipped < 8
    assert f"{skipped} groups could not be compared" in task["message"]
    assert f"{3 * (8 - skipped)} cannot be read at a copy and are healed there" in task["message"]


async def test_a_group_without_all_its_members_is_left_out_at_once(three):
    mgr, made = three
    await made[2].die()
    await until(lambda: _down(mgr), "the drive is down")
    task = await compare(mgr)
    assert task["state"] == "done"
    again = (await mgr.http.get("/v1/pools/default")).json()["compare"]
    assert again["skipped"] in range(9)


async def _down(mgr) -> bool:
    drives = (await mgr.http.get("/v1/drives")).json()["items"]
    return any(d["state"] == "down" for d in drives)


async def test_a_comparison_goes_on_where_the_last_leader_was(three):
    mgr, made = three
    differing = (Differing(2, 1, ("x",)),)
    progress = compares.Progress(pg=5, chunks=5, blocks=50, differing=differing, skipped=(4,))
    (pool,) = (await mgr.services.feed.read()).pools.values()
    task = mgr.services.tasks._made(99, "compare", str(pool.id))
    await mgr.services.env.store.txn(
        [], [Put(keys.task(99), encode(progress.shown(task, pool.pg_count)))]
    )
    await mgr.services.tasks.resume()
    shown = await ended(mgr, 99)
    assert shown["message"].startswith("80 blocks of 7 groups compared, 1 differ: x")
    assert shown["message"].endswith("; 1 groups could not be compared")
    assert sorted(c.compare.pg for c in asked(made, "compare")) == [5, 6, 7]


async def test_new_drives_and_pools_are_noted_and_those_that_are_gone_forgotten(three):
    mgr, _ = three
    store = mgr.services.env.store
    await store.txn([], [Put(keys.scrub(99), encode(Scrubbed(99, 1, 1)))])
    await store.txn([], [Put(keys.scrub(1), b"garbage")])
    await mgr.services.scrubs.look()
    found = await store.range(keys.SCRUBS)
    numbers = {int(item.key.removeprefix(keys.SCRUBS), 16) for item in found.items}
    assert numbers == {1, 2, 3}
    assert mgr.services.scrubs.records.drives.keys() == {1, 2, 3}
    record = await store.get(keys.scrub(2))
    assert record is not None
    assert decode(Scrubbed, record.value).done_s == 0
    drive = (await mgr.http.get("/v1/drives/2")).json()
    assert drive["scrub"] is None, "it was never scrubbed"


async def test_what_is_due_begins_by_itself_and_is_not_begun_twice(three):
    mgr, made = three
    store = mgr.services.env.store
    long_ago = int(mgr.services.env.wall()) - 30 * DAY_S
    await mgr.services.scrubs.look()
    assert not asked(made, "scrub")
    drives = [Put(keys.scrub(n), encode(Scrubbed(n, long_ago, long_ago))) for n in (1, 2, 3)]
    (pool,) = (await mgr.services.feed.read()).pools
    await store.txn([], [*drives, Put(keys.compare(pool), encode(Scrubbed(pool, long_ago)))])
    await mgr.services.scrubs.recall()
    assert (await problems(mgr))["scrub_overdue"]["severity"] == "warning"
    await mgr.services.scrubs.look()

    async def all_done() -> bool:
        tasks = (await mgr.http.get("/v1/tasks")).json()["items"]
        return len(tasks) == 4 and all(t["state"] == "done" for t in tasks)

    await until(all_done, "three scrubs and a comparison")
    assert "scrub_overdue" not in await problems(mgr)
    await mgr.services.scrubs.look()
    assert len((await mgr.http.get("/v1/tasks")).json()["items"]) == 4
    shown = (await mgr.http.get("/v1/drives/1")).json()["scrub"]
    assert shown["done_s"] > long_ago
    assert (shown["bad"], shown["left"]) == (0, 0)


async def test_nothing_begins_while_a_node_is_in_maintenance(three):
    mgr, made = three
    long_ago = int(mgr.services.env.wall()) - 30 * DAY_S
    puts = [Put(keys.scrub(n), encode(Scrubbed(n, long_ago, long_ago))) for n in (1, 2, 3)]
    await mgr.services.env.store.txn([], puts)
    body = {"for_s": 600, "reason": "a new fan", "force": True}
    answer = await mgr.http.post("/v1/nodes/node-1/maintenance", json=body)
    assert answer.status_code in (200, 201), answer.text
    await mgr.services.scrubs.look()
    assert not (await mgr.http.get("/v1/tasks")).json()["items"]
    assert not asked(made, "scrub")


async def test_a_drive_that_is_down_is_not_scrubbed_and_the_answer_says_what_to_do(three):
    mgr, made = three
    await made[2].die()
    await until(lambda: _down(mgr), "the drive is down")
    answer = await mgr.http.post("/v1/drives/3/scrub")
    assert (answer.status_code, answer.json()["code"]) == (409, "drive_not_up")
    assert "drystone status" in answer.json()["hint"]


@pytest.mark.parametrize("days", [-1, 366])
async def test_a_period_that_is_not_possible_is_refused(three, days):
    mgr, _ = three
    answer = await mgr.http.patch("/v1/pools/default", json={"scrub_days": days})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_scrub_days")
    answer = await mgr.http.patch("/v1/pools/default", json={"scrub_days": 0})
    assert answer.json()["scrub_days"] == 0


async def test_the_pool_of_a_comparison_may_go_meanwhile(three):
    mgr, _ = three
    await mgr.services.tasks.list()
    task = mgr.services.tasks._made(99, "compare", "77")
    await mgr.services.env.store.txn([], [Put(keys.task(99), encode(task))])
    await mgr.services.tasks.resume()

    async def ends() -> bool:
        return 99 not in mgr.services.tasks._running

    await until(ends, "the task is over")
    shown = (await mgr.http.get("/v1/tasks/99")).json()
    assert (shown["state"], shown["message"]) == ("failed", "the pool is gone")
    await mgr.services.env.store.txn([], [Delete(keys.task(99))])
