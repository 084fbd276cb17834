"""Every transaction of a manager that writes compares the leader's key: looked at, one and all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.store import Delete, MetadataStore, Put, Target
from drystone_storaged.manager import app, metadata
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import GIB, Peer, manager, peers, until
from tests.unit.source_tree import ROOT

MANAGER = ROOT / "storaged" / "drystone_storaged" / "manager"
FOUNDING = {
    keys.CLUSTER, keys.MASTER, keys.INCARNATION, keys.FEATURE_LEVEL, keys.VOTERS, keys.LEADER,
}  # fmt: skip
"""What is written before anybody leads: each only where it is absent."""


class Recorder:
    """Passes everything on and keeps what was written under which comparisons."""

    def __init__(self, inner: MetadataStore) -> None:
        self._inner = inner
        self.writes: list[tuple[set[str], bool, bool]] = []

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    async def txn(self, compares, then, otherwise=()):
        written = {op.key for op in (*then, *otherwise) if isinstance(op, Put | Delete)}
        if written:
            leader = any(c.key == keys.LEADER and c.target is Target.CREATE for c in compares)
            mine = leader and any(c.key == keys.LEADER and c.operand for c in compares)
            self.writes.append((written, mine, any(c.operand == 0 for c in compares)))
        return await self._inner.txn(compares, then, otherwise)


@pytest.fixture
def recorder(monkeypatch):
    made: list[Recorder] = []
    opened = metadata.open_store

    async def open_store(settings):
        made.append(Recorder(await opened(settings)))
        return made[-1]

    monkeypatch.setattr(app, "open_store", open_store)
    return made


async def attach_and_more(mgr, client: Peer) -> None:
    http = mgr.http
    volume = (await http.post("/v1/volumes", json={"name": "v", "size": GIB})).json()
    number = int(volume["id"], 16)
    await http.post("/v1/volumes/v/publish", json={"node": "block-1"})
    request = pb.AttachRequest(volume=number, mode=pb.MODE_READ_WRITE, nonce=5)
    attached = await client.call("Attach", request)
    await client.call(
        "Activate", pb.ActivateRequest(volume=number, generation=attached.generation, nonce=5)
    )
    await client.call("ReAdopt", pb.ReAdoptRequest(volume=number, nonces=[5], new_nonce=6))
    await client.call("Detach", pb.DetachRequest(volume=number, nonce=6, clean=True))
    await client.call("Attach", pb.AttachRequest(volume=number, mode=pb.MODE_READ_WRITE, nonce=7))
    for path, body in (
        ("volumes/v/content", {"expect": {"state": "never"}, "to": {"state": "raw"}}),
        ("volumes/v/fence", {}),
        ("clients/block-1/fence", {}),
        ("volumes/v/unpublish", {}),
    ):
        answer = await http.post(f"/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
    assert (await http.patch("/v1/volumes/v", json={"size": 2 * GIB})).status_code == 200
    assert (await http.patch("/v1/pools/default", json={"min_insync": 1})).status_code == 200


async def lose_and_replace(mgr, servers: list[Peer]) -> None:
    """Tasks, a drop on silence, a death, a rejoin, mark-lost, and everything forgotten."""
    http, victim = mgr.http, servers[2]
    assert (await http.post(f"/v1/drives/{servers[0].drive}/scrub")).status_code == 202
    for voter in servers[:2]:
        await voter.call("ReportSilence", pb.ReportSilenceRequest(silent=[victim.uuid]))

    async def dropped(drive: int) -> bool:
        pgs = (await mgr.services.feed.read()).pgs()
        return all(drive not in record.insync for record in pgs.values())

    await until(lambda: dropped(victim.drive), "the drop of the silent node")
    await victim.ready()

    async def joining() -> bool:
        pgs = (await mgr.services.feed.read()).pgs()
        return all(record.joiner(victim.drive) for record in pgs.values())

    await until(joining, "the join")
    pgs = (await mgr.services.feed.read()).pgs()
    listed = [pb.Pg(pool=ref.pool, pg=ref.pg, epoch=pg.epoch) for ref, pg in pgs.items()]
    await victim.call(
        "CopyComplete", pb.CopyCompleteRequest(drive=victim.drive, nonce=victim.nonce, pgs=listed)
    )
    await victim.call(
        "LeavePg", pb.LeavePgRequest(drive=victim.drive, nonce=victim.nonce, pgs=listed[:1])
    )
    await victim.die()
    await until(lambda: dropped(victim.drive), "the drop of the dead server")
    await servers[1].die()
    await until(lambda: dropped(servers[1].drive), "the drop of the second server")
    assert (await http.delete(f"/v1/drives/{victim.drive}")).status_code == 204
    await servers[0].die()

    async def down() -> bool:
        state = await mgr.services.feed.read()
        return state.drives[servers[0].drive].state.value == "down"

    await until(down, "the last server is seen dead")
    await servers[1].connect()
    await servers[1].open_drive(nonce=8, previous=7)
    lost = await http.post("/v1/pools/default/mark-lost", json={"pg": 0, "confirm": True})
    assert lost.status_code == 202, lost.text


async def test_nothing_is_written_without_comparing_the_leader(tmp_path, recorder):
    async with manager(tmp_path) as mgr, peers(mgr, 3, 1) as made:
        await attach_and_more(mgr, made[3])
        await lose_and_replace(mgr, made[:3])
        assert (await mgr.http.delete("/v1/nodes/node-3")).status_code == 204
        assert (await mgr.http.delete("/v1/volumes/v")).status_code == 204
        await made[3].disconnect()
        await until(
            lambda: mgr.services.sessions.get(("client", made[3].uuid.hex())) is None, "it is away"
        )
        assert (await mgr.http.delete("/v1/nodes/block-1")).status_code == 204
    (store,) = recorder
    unguarded = [written for written, leader, _ in store.writes if not leader]
    assert unguarded, "the founding and the election"
    assert set().union(*unguarded) <= FOUNDING
    assert all(absent for _, leader, absent in store.writes if not leader)
    guarded = set().union(*(written for written, leader, _ in store.writes if leader))
    prefixes = [
        keys.POOLS, keys.VOLUMES, keys.LAYERS, keys.NODES, keys.CLIENTS, keys.DRIVES, keys.ORDERS,
        keys.SUSPECTS, keys.TASKS, keys.JOIN_TOKENS, keys.VOTERS, "/ids/", "/name/", "/spent/",
        "/pool-use/",
    ]  # fmt: skip
    for prefix in prefixes:
        assert any(key.startswith(prefix) for key in guarded), f"nothing of {prefix} was tried"
    assert {key for key in guarded if re.search(r"/map/", key)}, "membership was tried"


def uses_of_the_bare_store(path: Path) -> set[str]:
    """What is asked of ``env.store``, which has no guard."""
    found = set()
    tree = ast.parse(path.read_text())
    inner = [n.value for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        text = ast.unparse(node)
        if re.search(r"\benv\.store\.\w+$", text):
            found.add(text.rpartition(".")[2])
        elif re.search(r"\benv\.store$", text) and node not in inner:
            found.add("itself")
    return found


def test_the_bare_store_is_only_read_and_handed_to_the_election_and_the_guard():
    used = {
        path.relative_to(MANAGER).as_posix(): names
        for path in sorted(MANAGER.rglob("*.py"))
        if (names := uses_of_the_bare_store(path))
    }
    assert used.pop("services.py") == {"itself"}, "Leadership and GuardedStore get it"
    assert used.pop("app.py") <= {"itself", "shared"}
    assert used.pop("loops.py") == {"itself"}, "compaction"
    assert set().union(*used.values()) <= {"range", "revision", "get"}, used
