"""Commands against a manager that is a table of answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from drystone_cli import attachments, cluster, compares, local, maintenance, pools, tasks, volumes
from drystone_cli.app import app
from drystone_cli.context import Cluster
from drystone_cli.output import size, table
from drystone_cli.problems import length
from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    DeadlineError,
    ExitCode,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from drystone_storaged.agent.rest import LOOK_S, Rest, problem, segment
from drystone_storaged.local.cluster import LocalCluster

VOLUME = {
    "id": "0000000000000001", "name": "db", "size": 10_000_003_072, "used": 4096,
    "pool": "default", "generation": 3, "content": {"state": "never"}, "publications": [],
    "attachments": [{"node": "block-1", "mode": "rw", "state": "active"}],
    "pgs": {"total": 64, "in_sync": 64, "degraded": 0, "resyncing": 0},
}  # fmt: skip
STATUS = {
    "health": "warning",
    "issues": ["64 PGs are missing a copy"],
    "nodes": [{"name": "node-1", "role": "server", "state": "up", "uuid": "a", "version": "1"}],
    "drives": [
        {"id": 1, "node": "node-1", "state": "up", "capacity": 8 << 30, "used": None,
         "bad_blocks": 0, "healed_blocks": 0, "addr": "127.0.0.1:1",
         "scrub": {"done_s": 1_000_000}}
    ],
    "pgs": {"total": 64, "in_sync": 0, "degraded": 64, "resyncing": 0},
    "resync": {"bytes_left": 0},
}  # fmt: skip


class Manager:
    """Answers by method and path, and remembers what was asked."""

    def __init__(self, answers):
        self.answers = answers
        self.asked: list[tuple[str, str, object]] = []
        self.timeout_s = 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        key = f"{request.method} {request.url.path}"
        self.asked.append((request.method, request.url.path, body))
        status, data = self.answers.get(key, (404, {"detail": key, "code": "not_found"}))
        return httpx.Response(status, json=data)

    def rest(self, timeout_s: float = 30.0) -> Rest:
        self.timeout_s = timeout_s
        transport = httpx.MockTransport(self)
        return Rest("http://manager", "secret", transport=transport, timeout_s=timeout_s)


@pytest.fixture
def run(monkeypatch):
    def start(answers):
        manager = Manager(answers)
        for module in (volumes, pools, cluster, compares, tasks, maintenance):
            monkeypatch.setattr(module, "manager", manager.rest)
        # Errors are raised, as `main` would see them.
        return manager, lambda *argv: CliRunner().invoke(app, argv, catch_exceptions=True)

    return start


def test_a_size_that_is_no_multiple_of_a_block_is_rounded_up(run):
    manager, cli = run({"POST /v1/volumes": (201, VOLUME)})
    assert cli("volume", "create", "db", "--size", "10G").exit_code == 0
    assert manager.asked[0] == (
        "POST", "/v1/volumes", {"name": "db", "size": 10_000_003_072, "pool": "default"}
    )  # fmt: skip


@pytest.mark.parametrize(("capacity", "warned"), [(10_000_003_072, False), (1 << 30, True)])
def test_a_volume_larger_than_its_pool_is_made_with_a_warning(run, capacity, warned):
    pool = {"name": "default", "capacity": capacity}
    _, cli = run({"POST /v1/volumes": (201, VOLUME), "GET /v1/pools/default": (200, pool)})
    done = cli("volume", "create", "db", "--size", "10G", "-o", "json")
    assert done.exit_code == 0
    assert ("warning: pool default has" in done.stderr) == warned
    assert json.loads(done.stdout) == VOLUME


def test_show_prints_json_as_the_manager_gave_it_or_a_table(run):
    _, cli = run({"GET /v1/volumes/db": (200, VOLUME)})
    assert json.loads(cli("volume", "show", "db", "-o", "json").output) == VOLUME
    shown = cli("volume", "show", "db").output
    assert "block-1 (rw, active)" in shown
    assert "4.0 KiB" in shown


def test_status_has_health_nodes_drives_and_placement_groups(run):
    _, cli = run({"GET /v1/status": (200, STATUS)})
    assert json.loads(cli("status", "-o", "json").output) == STATUS
    shown = cli("status").output
    assert "64 PGs are missing a copy" in shown
    assert "0 of 64 in sync" in shown


def told(**changes):
    return {
        "code": "node_away", "severity": "critical", "text": "node-1 is away", "since_s": 1,
        "at_least": True, "doing": "it waits", "todo": "start it", "objects": [],
    } | changes  # fmt: skip


def test_status_has_a_block_for_each_problem(run):
    found = STATUS | {"problems": [told(), told(since_s=None, doing="", severity="warning")]}
    _, cli = run({"GET /v1/status": (200, found)})
    shown = cli("status").output
    assert "CRITICAL since at least " in shown
    assert "d: node-1 is away\n  it does: it waits\n  you:     start it\nWARNING: node-1" in shown
    assert "64 PGs" not in shown, "the sentences say the same"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (9e5, "10 d")]
)
def test_a_length_of_time_is_told_in_its_largest_unit(seconds, text):
    assert length(seconds) == text


@pytest.mark.parametrize(("health", "code"), [("ok", 0), ("warning", 1), ("critical", 1)])
def test_a_check_fails_unless_everything_is_well(run, health, code):
    _, cli = run({"GET /v1/status": (200, STATUS | {"health": health})})
    assert cli("status").exit_code == 0
    assert cli("status", "--check").exit_code == code


def test_a_maintenance_is_announced_and_ended(run):
    path = "/v1/nodes/node-1/maintenance"
    made = {"node": "node-1", "begun_s": 1, "until_s": 601, "reason": "x", "overdue": False}
    answers = {f"POST {path}": (201, made | {"ended": False}), f"DELETE {path}": (204, None)}
    manager, cli = run(answers)
    shown = cli("node", "maintenance", "node-1", "--for", "10m", "--reason", "x")
    assert "node node-1 is in maintenance until" in shown.output
    assert manager.asked[-1] == ("POST", path, {"for_s": 600, "reason": "x", "force": False})
    ended = cli("node", "maintenance", "node-1", "--end", "-o", "json")
    assert json.loads(ended.output) == {"node": "node-1", "ended": True}
    refused = cli("node", "maintenance", "node-1", "--end", "--for", "1h").exception
    assert isinstance(refused, InvalidArgumentError)


def test_a_node_shows_its_maintenance(run):
    record = {"begun_s": 1, "until_s": 601, "reason": "x", "overdue": True, "ended": False}
    statuses: Any = STATUS["nodes"]
    nodes = [statuses[0] | {"maintenance": record}]
    _, cli = run({"GET /v1/nodes": (200, {"items": nodes, "next_cursor": None})})
    shown = cli("node", "list").output
    assert "up, maintenance until 1970-01-01 00:10 UTC" in shown
    assert "(x), overdue" in shown


def test_status_does_not_wait_long_for_a_frozen_manager_and_says_what_wakes_it(run):
    manager, cli = run({"GET /v1/status": (200, STATUS)})
    assert cli("status").exit_code == 0
    assert manager.timeout_s == LOOK_S

    def silent(_request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("nothing")

    transport = httpx.MockTransport(silent)
    with (
        Rest("http://m", "t", transport=transport, timeout_s=LOOK_S) as rest,
        pytest.raises(DeadlineError) as caught,
    ):
        rest.get("/v1/status")
    assert "in 5 s" in caught.value.message
    assert "drystone local start" in (caught.value.hint or "")
    assert "carried out" not in (caught.value.hint or ""), "a look changes nothing"


def test_a_drive_is_forgotten_only_when_that_is_confirmed(run):
    manager, cli = run({"DELETE /v1/drives/3": (204, None)})
    refused = cli("drive", "forget", "3").exception
    assert isinstance(refused, InvalidArgumentError)
    assert "--yes" in (refused.hint or "")
    assert not manager.asked
    told = cli("drive", "forget", "3", "--yes", "-o", "json")
    assert json.loads(told.output) == {"drive": "3", "forgotten": True}


def test_a_node_is_forgotten_only_when_that_is_confirmed(run):
    manager, cli = run({"DELETE /v1/nodes/node-3": (204, None)})
    refused = cli("node", "forget", "node-3").exception
    assert isinstance(refused, InvalidArgumentError)
    assert "--yes" in (refused.hint or "")
    assert not manager.asked
    told = cli("node", "forget", "node-3", "--yes", "--force", "-o", "json")
    assert json.loads(told.output) == {"node": "node-3", "forgotten": True}


def test_a_pool_is_changed_and_deleted(run):
    pool = {
        "name": "fast", "copies": 3, "width": 3, "min_insync": 1, "failure_domain": "node",
        "capacity": 1, "used": 0, "available": 1, "pgs": STATUS["pgs"],
        "out_time_s": 600, "rebalance": "auto", "moves": {"left": 3, "running": 2},
        "scrub_days": 14, "compare": None,
    }  # fmt: skip
    answers = {"PATCH /v1/pools/fast": (200, pool), "DELETE /v1/pools/fast": (204, None)}
    manager, cli = run(answers)
    assert "min in-sync" in cli("pool", "set", "fast", "--min-insync", "1").output
    assert manager.asked[-1] == ("PATCH", "/v1/pools/fast", {"min_insync": 1})
    shown = cli("pool", "set", "fast", "--out-time", "2h", "--rebalance", "manual").output
    assert manager.asked[-1][2] == {"out_time_s": 7200, "rebalance": "manual"}
    assert "3 (2 on the way)" in shown
    cli("pool", "set", "fast", "--out-time", "0")
    assert manager.asked[-1][2] == {"out_time_s": 0}
    shown = cli("pool", "set", "fast", "--scrub-days", "0").output
    assert manager.asked[-1][2] == {"scrub_days": 0}
    assert "14 days" in shown
    assert "never" in shown
    assert isinstance(cli("pool", "set", "fast").exception, InvalidArgumentError)
    assert json.loads(cli("pool", "delete", "fast", "-o", "json").output) == {
        "pool": "fast",
        "deleted": True,
    }


@pytest.mark.parametrize(
    ("kind", "code"), [("data", ExitCode.DATA), ("failed", ExitCode.FAILED), (None, 70)]
)
def test_damaged_data_is_no_defect_although_both_are_status_500(kind, code):
    body = {"detail": "no", "code": "x"} | ({"kind": kind} if kind else {})
    assert problem(500, body).exit_code == code


def test_a_list_is_read_page_by_page(run):
    pages = iter([{"items": [VOLUME], "next_cursor": "x"}, {"items": [VOLUME]}])

    class Paged(dict):
        def get(self, key, default=None):
            return (200, next(pages)) if key == "GET /v1/volumes" else default

    _, cli = run(Paged())
    assert len(json.loads(cli("volume", "list", "-o", "json").output)["items"]) == 2


def test_a_comparison_of_copies_is_waited_for_and_told_in_words(run):
    said = "80 blocks of 8 groups compared, all equal"
    answers = {
        "POST /v1/pools/default/compare": (
            202, {"id": 5, "state": "running", "done": 0, "total": 8, "message": ""},
        ),
        "GET /v1/tasks/5": (
            200, {"id": 5, "state": "done", "done": 8, "total": 8, "message": said},
        ),
    }  # fmt: skip
    compared = {"divergent": 0, "skipped": 0}
    answers["GET /v1/pools/default"] = (200, {"compare": compared})
    _, cli = run(answers)
    found = cli("pool", "compare", "default", "--wait")
    assert (found.stdout, found.exit_code) == (f"pool default: {said} (task 5)\n", 0)
    assert "running (task 5)" in cli("pool", "compare", "default").output
    compared["skipped"] = 2
    told = cli("pool", "compare", "default", "--wait").exception
    assert isinstance(told, UnavailableError)
    assert "2 groups of pool default could not be compared" in told.message
    compared["divergent"] = 1
    told = cli("pool", "compare", "default", "--wait").exception
    assert isinstance(told, DataError)
    assert told.code == "copies_differ"
    assert cli("pool", "compare", "default").exit_code == 0, "nobody waited"


@pytest.mark.parametrize(
    ("past_s", "shown"),
    [(0, "now"), (59, "now"), (120, "2 min"), (7200, "2 h"), (13 * 86_400, "13 d"), (-5, "now")],
)
def test_how_long_ago_a_scrub_was_is_one_word(past_s, shown):
    assert compares.ago({"done_s": 10_000_000 - past_s}, 10_000_000.0) == shown
    assert compares.ago(None, 1.0) == "never"


def test_scrub_of_all_waits_for_every_task(run):
    answers = {
        "GET /v1/drives": (200, {"items": STATUS["drives"]}),
        "POST /v1/drives/1/scrub": (202, {"id": 5, "state": "running", "done": 0, "total": 9}),
        "GET /v1/tasks/5": (200, {"id": 5, "state": "done", "done": 9, "total": 9}),
    }
    scrub = {"bad": 3, "left": 0}
    answers["GET /v1/drives/1"] = (200, {"id": 1, "scrub": scrub})
    _, cli = run(answers)
    result = cli("drive", "scrub", "--all", "--wait")
    assert result.exit_code == 0, result.output
    assert "done" in result.output
    scrub["left"] = 2
    result = cli("drive", "scrub", "--all", "--wait")
    assert "done" in result.output
    assert isinstance(result.exception, DataError)
    assert "2 of drive 1" in result.exception.message
    assert cli("drive", "scrub", "--all").exit_code == 0, "nobody waited"


def test_tasks_name_pools_groups_and_drives_as_commands_do(run):
    def task(number, kind, subject):
        return {"id": number, "kind": kind, "subject": subject, "state": "done", "done": 1,
                "total": 1, "message": "m"}  # fmt: skip

    listed = [
        task(1, "compare", "4"), task(2, "rebalance", "9"), task(3, "mark-lost", "4.17.23"),
        task(4, "scrub", "4"), task(5, "retest", "7"),
    ]  # fmt: skip
    answers = {
        "GET /v1/tasks": (200, {"items": listed}),
        "GET /v1/tasks/3": (200, listed[2]),
        "GET /v1/pools": (200, {"items": [{"id": 4, "name": "fast"}]}),
    }
    _, cli = run(answers)
    shown = cli("task", "list").output
    for line, of in zip(
        shown.splitlines()[1:], ("fast", "pool number 9", "fast/17", "drive 4", "drive 7"),
        strict=True,
    ):  # fmt: skip
        assert of in line
    assert "fast/17" in cli("task", "show", "3").output
    raw = json.loads(cli("task", "list", "-o", "json").output)["items"]
    assert raw[2]["subject"] == "4.17.23", "for programs it stays what it is"


@pytest.mark.parametrize("argv", [("drive", "scrub"), ("drive", "scrub", "1", "--all")])
def test_scrub_wants_one_drive_or_all(run, argv):
    _, cli = run({})
    assert isinstance(cli(*argv).exception, InvalidArgumentError)


@pytest.mark.parametrize("pg", ["x", "default/x", "1/2/3", "", "99999"])
def test_mark_lost_refuses_what_is_no_placement_group(run, pg):
    manager, cli = run({})
    assert isinstance(cli("pool", "mark-lost", pg, "--yes").exception, InvalidArgumentError)
    assert not manager.asked


def test_mark_lost_shows_who_would_take_over_and_changes_nothing(run):
    could = [
        {"drive": 3, "node": "n3", "text": "drive 3, with all of before epoch 50"},
        {"drive": 2, "node": "n2", "text": "drive 2, filled in part"},
    ]
    manager, cli = run({"GET /v1/pools/fast/mark-lost": (200, {"drives": could})})
    shown = cli("pool", "mark-lost", "fast/7", "--plan").output
    assert shown.splitlines() == [
        "takes over: drive 3, with all of before epoch 50 (n3)",
        "instead (--drive): drive 2, filled in part (n2)",
    ]
    shown = cli("pool", "mark-lost", "fast/7", "--plan", "--drive", "2").output
    assert "takes over: drive 2" in shown
    shown = cli("pool", "mark-lost", "fast/7", "--plan", "--drive", "9").output
    assert "drive 9 cannot take over" in shown
    assert {method for method, *_ in manager.asked} == {"GET"}


def test_mark_lost_takes_the_drive_that_is_named(run):
    done = {"id": 1, "state": "done", "message": "drive 2 took over", "total": 1, "done": 1,
            "kind": "mark-lost", "subject": "1.7.9"}  # fmt: skip
    manager, cli = run({"POST /v1/pools/fast/mark-lost": (202, done)})
    assert "drive 2 took over" in cli("pool", "mark-lost", "fast/7", "--drive", "2", "--yes").output
    assert manager.asked[0][2] == {"pg": 7, "confirm": True, "drive": 2}


def test_mark_lost_does_nothing_without_yes(run):
    manager, cli = run({})
    assert cli("pool", "mark-lost", "7").exception.code == "not_confirmed"
    assert not manager.asked


@pytest.mark.parametrize(
    ("status", "data", "kind"),
    [
        (404, {"code": "volume_not_found", "detail": "no"}, NotFoundError),
        (409, {"code": "volume_exists"}, AlreadyExistsError),
        (409, {"code": "volume_in_use"}, ConflictError),
        (503, {}, UnavailableError),
        (504, {"detail": 7}, DeadlineError),
    ],
)
def test_a_problem_of_the_manager_is_the_typed_error(status, data, kind):
    error = problem(status, data)
    assert type(error) is kind
    if "code" in data:
        assert error.code == data["code"]


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"\xff"])
def test_an_answer_that_is_not_the_managers_is_a_typed_error(content):
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    with Rest("http://m", "t", transport=transport) as rest, pytest.raises(UnavailableError):
        rest.get("/v1/status")


def test_a_manager_that_cannot_be_reached_is_said_with_the_next_step():
    def refuse(_request):
        raise httpx.ConnectError("refused")

    with (
        Rest("http://m", "t", transport=httpx.MockTransport(refuse)) as rest,
        pytest.raises(UnavailableError) as caught,
    ):
        rest.get("/v1/status")
    assert "drystone local status" in (caught.value.hint or "")


@pytest.mark.parametrize(("text", "path"), [("a b", "a%20b"), ("v?1", "v%3F1"), ("#", "%23")])
def test_what_a_person_typed_stays_one_segment_of_a_path(text, path):
    assert segment(text) == path


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "../status"])
def test_a_name_that_would_be_another_path_is_refused(text):
    with pytest.raises(InvalidArgumentError) as caught:
        segment(text)
    assert caught.value.hint


def test_a_refused_request_says_which_field_is_wrong():
    details = [{"field": "body.name", "problem": "too short"}]
    error = problem(400, {"code": "invalid_argument", "detail": "no", "details": details})
    assert error.hint == "body.name: too short"
    assert problem(400, {"detail": "no", "details": ["x", 7]}).hint is None


def test_attaching_at_an_unknown_node_names_those_there_are():
    found = Cluster("http://m", "t", {"block-1": "/x"})
    with pytest.raises(NotFoundError) as caught:
        attachments._node(found, "block-9")
    assert "block-1" in (caught.value.hint or "")
    assert attachments._node(found, None) == "block-1"


def test_tables_are_aligned_and_unknown_figures_are_a_dash():
    assert table(("A", "LONG"), [("xx", None)]) == "A   LONG\nxx  -"
    assert size(None) == "-"


TASK = {"id": 17, "kind": "scrub", "subject": "1", "state": "running", "done": 25, "total": 100,
        "message": "bad 0, healed 0"}  # fmt: skip


def test_tasks_are_listed_and_shown(run):
    _, cli = run({"GET /v1/tasks": (200, {"items": [TASK]}), "GET /v1/tasks/17": (200, TASK)})
    assert "25 %" in cli("task", "list").stdout
    assert json.loads(cli("task", "list", "-o", "json").stdout) == {"items": [TASK]}
    assert json.loads(cli("task", "show", "17", "-o", "json").stdout) == TASK


def test_a_task_is_waited_for_and_its_failure_is_the_commands(run):
    ended = {**TASK, "state": "failed", "message": "the drive is gone"}
    _, cli = run({"GET /v1/tasks/17": (200, ended)})
    failure = cli("task", "show", "17", "--wait").exception
    assert "the drive is gone" in str(failure)


def test_whoever_stops_waiting_is_told_that_the_work_goes_on(capsys):
    with pytest.raises(KeyboardInterrupt), tasks.goes_on([TASK]):
        raise KeyboardInterrupt
    assert "`drystone task show NUMBER --wait` of 17" in capsys.readouterr().err


def test_a_join_token_is_for_one_name_and_role(run):
    made = {"token": "secret", "role": "client", "name": "block-9"}
    manager, cli = run({"POST /v1/join-tokens": (201, made)})
    assert cli("node", "join-token", "block-9", "--role", "client").stdout == "secret\n"
    assert manager.asked == [("POST", "/v1/join-tokens", {"role": "client", "name": "block-9"})]


def test_forgotten_drives_are_listed_only_on_demand(run):
    up = dict(STATUS["drives"][0])  # type: ignore[index]  # a list of tables
    items = {"items": [up, {**up, "id": 2, "state": "gone"}]}
    _, cli = run({"GET /v1/drives": (200, items)})
    assert json.loads(cli("drive", "list", "-o", "json").stdout)["items"] == [up]
    assert json.loads(cli("drive", "list", "--all", "-o", "json").stdout) == items


def test_an_interrupted_up_says_what_keeps_running(monkeypatch, tmp_path, capsys):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalCluster, "up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local.up(folder=tmp_path)
    assert "`drystone local down` stops it" in capsys.readouterr().err
