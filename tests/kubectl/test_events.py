"""`drystone events`: several sources, one order."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drystone_cli import events
from drystone_cli.happenings import (
    RECOUNTED_S,
    Happening,
    merged,
    of_history,
    of_kubernetes,
    of_manager,
)
from drystone_cli.output import Output
from drystone_common.errors import DeniedError, UnavailableError
from tests.kubectl import cluster as made
from tests.kubectl.cluster import NAME, NAMESPACE, manager

NOW = datetime.now(UTC).replace(microsecond=0)


def ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def event(name, about, minutes, namespace=NAMESPACE, **fields):
    body = {"metadata": {"name": name, "namespace": namespace}, "involvedObject": about}
    return {**body, "lastTimestamp": ago(minutes), "reason": name, "type": "Normal", **fields}


DISK = {"apiVersion": "drystone.io/v1alpha1", "kind": "StorageDisk", "name": "d1",
        "namespace": NAMESPACE}  # fmt: skip
POD = {"apiVersion": "v1", "kind": "Pod", "name": f"{NAME}-server-x", "namespace": NAMESPACE}
CLAIM = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "db", "namespace": "apps"}
OTHER = {"apiVersion": "v1", "kind": "Pod", "name": "web", "namespace": NAMESPACE}


def test_events_of_kubernetes_tasks_and_issues_come_in_the_order_of_time(world):
    world.kube.put("events", event("Late", DISK, 1, count=3, message="of the\ndisk"))
    world.kube.put("events", event("Early", POD, 30, type="Warning"))
    driver = {"source": {"component": "csi.drystone.io_main-csi-controller-1"}}
    world.kube.put("events", event("Provisioning", CLAIM, 10, "apps", **driver))
    world.kube.put("events", event("Foreign", OTHER, 5))
    world.kube.put("events", event("Old", DISK, 300))
    begun = int((NOW - timedelta(minutes=20)).timestamp())
    task = {"id": 7, "kind": "scrub", "subject": "1", "state": "failed", "message": "away",
            "created_s": begun}  # fmt: skip
    answers = {
        "GET /v1/tasks": {"items": [task], "next_cursor": None},
        "GET /v1/status": {"issues": ["a drive is full"]},
    }
    with manager(answers=answers) as served:
        world.kube.put("pods", made.pod("manager", "a"))
        world.pod_answers(f"{NAME}-manager-0", served.address)
        found = json.loads(world.run("events", "--since", "2h", "-o", "json").stdout)
        text = world.run("events", "--since", "2h").stdout
    assert found["errors"] == []
    shown = [
        (i["source"], i["object"], i["reason"], i["level"], i["count"]) for i in found["items"]
    ]
    assert shown == [
        ("kubernetes", f"Pod/{NAME}-server-x", "Early", "Warning", 1),
        ("task", "scrub/1", "failed", "Warning", 1),
        ("kubernetes", "apps/PersistentVolumeClaim/db", "Provisioning", "Normal", 1),
        ("kubernetes", "StorageDisk/d1", "Late", "Normal", 3),
        ("issue", "cluster", "Issue", "Warning", 1),
    ]
    assert found["items"][0]["time"] == ago(30)
    assert "of the disk" in text, "a line for each"


def test_events_are_shown_when_no_manager_answers_and_it_is_told(world):
    world.kube.put("events", event("Early", POD, 30))
    result = world.run("events", "-o", "json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [item["reason"] for item in found["items"]] == ["Early"]
    assert "no manager" in found["errors"][0]


def test_an_event_of_the_newer_kind_and_one_without_a_time_are_understood():
    newer = {
        "metadata": {"namespace": NAMESPACE}, "regarding": DISK, "note": "n", "reason": "R",
        "eventTime": "2026-11-22T01:02:03.123456Z",
        "series": {"count": 4, "lastObservedTime": "2026-11-22T02:00:00.5+01:00"},
    }  # fmt: skip
    bare = {"metadata": {}, "involvedObject": DISK}
    found = list(of_kubernetes([newer, bare], NAME, NAMESPACE))
    assert found[0].time == "2026-11-22T01:00:00Z"
    assert (found[0].message, found[0].count) == ("n", 4)
    assert found[1].time == ""


@given(st.lists(st.integers(0, 10**9)))
def test_nothing_before_the_moment_is_left_and_nothing_after_it_is_lost(times):
    tasks = [{"id": n, "state": "done", "created_s": t} for n, t in enumerate(times)]
    since = 5 * 10**8
    found = merged(of_manager(tasks, (), time.time()), since)
    assert len(found) == sum(1 for t in times if t >= since or t == 0)
    assert [each.time for each in found] == sorted(each.time for each in found)


def test_what_has_no_time_comes_first():
    unknown = Happening("", "Normal", "task", "a", "", "")
    known = Happening(ago(1), "Normal", "task", "a", "", "")
    assert merged([known, unknown], 0) == [unknown, known]


def remembered(second, **fields):
    return {
        "id": f"{second:012d}ab", "time_s": second, "last_s": second, "level": "Warning",
        "kind": "drive_dropped", "object": "drive 1 on node-1", "message": "left 64 PGs",
        "count": 1, **fields,
    }  # fmt: skip


def test_what_managers_remember_stands_at_the_last_time_that_it_happened():
    (found,) = of_history([remembered(60, last_s=120, count=3)])
    assert (found.time, found.count, found.source) == ("1970-01-01T00:02:00Z", 3, "manager")
    assert (found.object, found.reason) == ("drive 1 on node-1", "drive_dropped")


class Follower:
    """Runs `events --follow` against answers of /v1/events in turn, one for each look."""

    def __init__(self, monkeypatch, looks):
        self.looks, self.asked = looks, []
        monkeypatch.setattr(events, "manager", lambda _timeout: nullcontext(self))
        monkeypatch.setattr(events, "time", SimpleNamespace(time=time.time, sleep=self.sleep))
        monkeypatch.setattr("drystone_cli.events.target.chosen", lambda: None)

    def get(self, _path):
        if isinstance(self.looks[0], Exception):
            raise self.looks[0]
        return {"issues": []}

    def items(self, path, **query):
        if path != "/v1/events":
            return []
        self.asked.append(query["since_s"])
        return [each for each in self.looks[0] if each["time_s"] >= query["since_s"]]

    def sleep(self, _seconds):
        self.looks.pop(0)
        if not self.looks:
            raise KeyboardInterrupt

    def follow(self, since):
        with pytest.raises(KeyboardInterrupt):
            events.events(since=since, follow=True, output=Output.JSON)


def test_who_follows_goes_on_through_a_change_of_managers(monkeypatch, capsys):
    now = int(time.time())
    away = UnavailableError("no manager leads", code="not_leader")
    first = [remembered(now)]
    looks = [first, away, away, [*first, remembered(now + 9, kind="leader_elected")]]
    Follower(monkeypatch, looks).follow("1h")
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [each["reason"] for each in lines] == ["drive_dropped", "leader_elected"]
    assert told.err.count("no manager leads") == 1


def test_who_may_not_ask_is_refused_at_once_also_while_following(monkeypatch):
    follower = Follower(monkeypatch, [DeniedError("no")])
    with pytest.raises(DeniedError):
        events.events(since="1h", follow=True, output=Output.JSON)
    follower.looks = [UnavailableError("gone")]
    with pytest.raises(UnavailableError):
        events.events(since="1h", follow=False, output=Output.JSON)


def test_who_follows_asks_only_for_what_is_new(monkeypatch, capsys):
    now = int(time.time())
    old, new = remembered(now - 86_000), remembered(now, kind="drive_joins")
    follower = Follower(monkeypatch, [[old, new]] * 3)
    follower.follow("1d")
    assert follower.asked[0] < now - 86_000
    assert follower.asked[1:] == [now - RECOUNTED_S] * 2
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_who_follows_sees_each_event_once_and_again_when_it_is_counted_up(monkeypatch, capsys):
    now = int(time.time())
    looks = [
        [remembered(now)],
        [remembered(now), remembered(now + 1, kind="drive_joins")],
        [remembered(now, count=2, last_s=now + 2), remembered(now + 1, kind="drive_joins")],
    ]

    class Rest:
        def get(self, _path):
            return {"issues": ["a drive is full"]}

        def items(self, path, **_query):
            return looks[0] if path == "/v1/events" else []

    def sleep(_seconds):
        looks.pop(0)
        if not looks:
            raise KeyboardInterrupt

    monkeypatch.setattr(events, "manager", lambda _timeout: nullcontext(Rest()))
    monkeypatch.setattr(events, "time", SimpleNamespace(time=time.time, sleep=sleep))
    monkeypatch.setattr("drystone_cli.events.target.chosen", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        events.events(since="1h", follow=True, output=Output.JSON)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["reason"], each["count"]) for each in lines] == [
        ("drive_dropped", 1), ("drive_joins", 1), ("drive_dropped", 2),
    ]  # fmt: skip
