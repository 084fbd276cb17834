"""A suspicion whose withdrawal failed is taken back without an election."""

from __future__ import annotations

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.store import Delete, StoreUnavailableError
from drystone_storaged.cluster.suspicions import suspect
from tests.storaged.manager_env import manager, peers, until


class Hanging:
    """A store whose transactions fail where they are told to: before, or after they are done."""

    def __init__(self, store, fails) -> None:
        self.store = store
        self.fails = fails
        self.failed: list[str] = []

    def __getattr__(self, name):
        return getattr(self.store, name)

    async def txn(self, compares, then, otherwise=()):
        kind = "delete" if any(isinstance(op, Delete) for op in then) else "put"
        if self.fails and self.fails[0] == (kind, "before"):
            self.failed.append(self.fails.pop(0)[0])
            raise StoreUnavailableError("it hangs")
        done = await self.store.txn(compares, then, otherwise)
        if self.fails and self.fails[0] == (kind, "after"):
            self.failed.append(self.fails.pop(0)[0])
            raise StoreUnavailableError("its answer is lost")
        return done


def hang(mgr, *fails) -> Hanging:
    deps = mgr.services.silence._deps
    store = Hanging(deps.store, list(fails))
    object.__setattr__(deps, "store", store)
    return store


async def stand(mgr) -> list[str]:
    page = await mgr.services.env.store.range(keys.SUSPECTS)
    return [item.key for item in page.items]


def told_last(peer) -> int | None:
    """How many suspects the peer was told of last."""
    told = [m.suspects for m in peer.messages if m.WhichOneof("kind") == "suspects"]
    return len(told[-1].suspects) if told else None


async def one_suspicion(mgr) -> None:
    """A suspicion that comes to nothing, from its transaction to its withdrawal."""

    async def decide(_suspicion, _conditions) -> None:
        await mgr.services.silence._tell()

    await mgr.services.silence._try_drop("ab" * 16, decide)


async def failed(mgr, store: Hanging, count: int, peer) -> None:
    try:
        await one_suspicion(mgr)
    except StoreUnavailableError:
        pass
    else:
        raise AssertionError("the store did not hang")
    await until(lambda: len(store.failed) == count, "the failure")

    async def gone() -> bool:
        return not await stand(mgr)

    await until(gone, "the withdrawal")
    await until(lambda: told_last(peer) == 0, "the news of it")


async def test_a_suspicion_that_could_not_be_withdrawn_is_withdrawn_later(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, 2, 0) as (one, _):
        store = hang(mgr, ("delete", "before"), ("delete", "before"))
        await failed(mgr, store, 2, one)


async def test_voters_hear_of_a_withdrawal_whose_answer_was_lost(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, 2, 0) as (one, _):
        await failed(mgr, hang(mgr, ("delete", "after")), 1, one)


async def test_a_suspicion_whose_own_answer_was_lost_is_withdrawn(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, 2, 0) as (one, _):
        await failed(mgr, hang(mgr, ("put", "after")), 1, one)


async def test_a_suspicion_that_somebody_is_at_stays(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, 2, 0):
        silence, node = mgr.services.silence, "cd" * 16
        silence._running[node] = None
        assert await suspect(mgr.services.env.store, node)
        assert not await silence.tidy()
        assert await stand(mgr) == [keys.suspect(node)]
        del silence._running[node]
        await silence.tidy()
        assert await stand(mgr) == []


async def test_why_a_still_server_was_not_dropped_is_told(tmp_path, monkeypatch, capsys):
    async with manager(tmp_path) as mgr, peers(mgr, 1, 0):

        async def broken(_node):
            raise RuntimeError("a defect")

        monkeypatch.setattr(mgr.services.silence, "_take_lease", broken)
        assert not await mgr.services.silence.server_is_still("ab" * 16)
        said = capsys.readouterr().out
        assert "a still server was not dropped" in said
        assert "a defect" in said
