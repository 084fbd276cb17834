"""Problems: since when, stable codes, what the cluster does and what a person does."""

from __future__ import annotations

import re

import grpc
import pytest

from drystone_common.errors import AlreadyExistsError
from drystone_storaged.manager.control.sessions import CLAIM_LASTS_S, SessionKey, SessionRegistry
from drystone_storaged.manager.problems import CODES, Problem, Severity, SinceTracker, health
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import Peer, peers, until
from tests.storaged.metadata_conformance import FakeClock
from tests.unit.source_tree import ROOT

AWAY = Problem("node_away", Severity.WARNING, "node a is away", "start it", "waits", ("node a",))


def test_a_problem_keeps_its_beginning_while_its_figures_change():
    now = [100.0]
    tracker = SinceTracker(lambda: now[0])
    assert tracker.dated([]) == []
    now[0] = 150.0
    (first,) = tracker.dated([AWAY])
    assert (first.since_s, first.at_least) == (150, False)
    now[0] = 200.0
    changed = Problem("node_away", Severity.WARNING, "another text", "", "", ("node a",))
    (later,) = tracker.dated([changed])
    assert (later.since_s, later.text) == (150, "another text")
    assert tracker.dated([]) == []
    (anew,) = tracker.dated([AWAY])
    assert anew.since_s == 200


def test_what_a_new_leader_finds_may_be_older():
    tracker = SinceTracker(lambda: 7.0)
    (found,) = tracker.dated([AWAY])
    assert (found.since_s, found.at_least) == (7, True)
    tracker.clear()
    assert tracker.dated([AWAY])[0].at_least


def test_what_the_records_say_of_the_beginning_counts():
    tracker = SinceTracker(lambda: 7.0)
    told = Problem("pgs_degraded", Severity.WARNING, "x", "", "", since_s=3)
    assert tracker.dated([told]) == [told]


def test_health_is_that_of_the_gravest():
    grave = Problem("writes_stalled", Severity.CRITICAL, "x", "", "")
    assert health([]) == "ok"
    assert health([AWAY]) == "warning"
    assert health([AWAY, grave]) == "critical"


def test_a_sentence_has_one_colon_of_ours():
    assert AWAY.line == "node a is away: start it"
    assert Problem("x", Severity.WARNING, "why: that", "do", "").line == "why: that; do"


def test_every_code_is_published_told_and_documented():
    folder = ROOT / "storaged/drystone_storaged/manager/issues"
    source = "\n".join(path.read_text() for path in sorted(folder.glob("*.py")))
    source = re.sub(r"objects=|Problem\(\s*", "Problem(", source)
    told = set(re.findall(r'Problem\("([a-z_]+)"', source))
    told |= set(re.findall(r'"([a-z_]+)" if alone else "([a-z_]+)"', source)[0])
    assert told == CODES
    text = (ROOT / "docs/operations.md").read_text()
    table = text.partition("\n## Problems\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {code for cell in cells for code in re.findall(r"`([a-z_]+)`", cell)} == CODES


async def codes(mgr) -> dict[str, dict]:
    return {each["code"]: each for each in (await mgr.status())["problems"]}


async def test_every_problem_says_since_when_what_is_done_and_what_to_do(mgr):
    async with peers(mgr, 3, 0) as made:
        assert (await mgr.status())["problems"] == []
        await made[0].ready(pb.DRIVE_STATE_CLOSED)
        await made[0].disconnect()

        async def told():
            return {"node_away", "pgs_degraded"} <= (await codes(mgr)).keys()

        await until(told, "the problems")
        status = await mgr.status()
        for problem in status["problems"]:
            assert all(problem[key] for key in ("text", "doing", "todo", "since_s", "severity"))
        found = await codes(mgr)
        assert found["node_away"]["objects"] == ["node node-1"]
        assert found["node_away"]["at_least"] is False, "it was seen to go"
        assert "copies are made on other drives from 20" in found["pgs_degraded"]["doing"]
        lines = [f"{p['text']}: {p['todo']}" for p in status["problems"]]
        assert status["issues"] == lines


async def test_a_node_in_maintenance_is_expected_back_and_told_of_when_it_is_late(mgr):
    async with peers(mgr, 3, 0) as made:
        path, body = "/v1/nodes/node-1/maintenance", {"for_s": 600, "reason": "new kernel"}
        assert (await mgr.http.post(path, json=body)).status_code == 201
        assert await codes(mgr) == {}, "it is there still"
        await made[0].ready(pb.DRIVE_STATE_CLOSED)
        await made[0].disconnect()

        async def told():
            return "node_in_maintenance" in await codes(mgr)

        await until(told, "the maintenance")
        found = await codes(mgr)
        assert "new kernel" in found["node_in_maintenance"]["text"]
        assert "node_away" not in found
        assert "wait for the end of the maintenance of node-1" in found["pgs_degraded"]["todo"]
        status = mgr.services.status
        later = status._wall() + 601
        status._wall = lambda: later
        assert "maintenance_overdue" in await codes(mgr)
        assert (await mgr.http.delete(path)).status_code == 204
        assert {"node_away", "pgs_degraded"} == (await codes(mgr)).keys()


def test_a_second_process_is_told_of_when_it_lasts_longer_than_a_restart():
    clock = FakeClock()
    registry = SessionRegistry(clock)
    key: SessionKey = ("server", "a")
    registry.open(key, "node-1", 1)

    def another():
        with pytest.raises(AlreadyExistsError):
            registry.open(key, "node-1", 2)

    another()
    assert registry.claimed_twice() == []
    for _ in range(int(CLAIM_LASTS_S // 5)):
        clock.now += 5
        another()
    assert registry.claimed_twice() == ["node-1"]
    clock.now += 31
    assert registry.claimed_twice() == [], "it was stopped"
    another()
    assert registry.claimed_twice() == [], "that is a new one"


async def test_a_copied_state_folder_that_lives_is_a_problem(mgr):
    async with peers(mgr, 1, 0) as made:
        copy = Peer(mgr, made[0].name, "server", uuid=made[0].uuid, metadata=made[0].metadata)
        try:
            registry = mgr.services.sessions
            for ahead in (0.0, CLAIM_LASTS_S):
                registry._monotonic = lambda real=registry._monotonic, by=ahead: real() + by
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await copy._session(instance=99)
                assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
            found = (await codes(mgr))["claimed_twice"]
            assert "node-1 is claimed twice" in found["text"]
            counted = mgr.services.tally.refused_calls
            assert counted["control", "node_already_connected"] == 2
            assert made[0].session is not None
            assert not made[0].session.done(), "the first one goes on"
        finally:
            await copy.close()
