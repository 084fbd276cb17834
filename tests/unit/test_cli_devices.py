"""`drystone node devices`, `drystone drive add` and `remove` against a manager of answers."""

from __future__ import annotations

import json

import httpx
import pytest
from typer.testing import CliRunner

from drystone_cli import devices
from drystone_cli.app import app
from drystone_common.errors import ConflictError, DeadlineError
from drystone_storaged.agent.rest import Rest

DEVICE = {
    "id": "wwn:5", "path": "/dev/sdb", "size_bytes": 1 << 40, "class": "ssd", "serial": "S",
    "wwn": "0x5", "model": "QX", "state": "blank", "found": "", "drive": None,
    "configured": False, "wanted": None,
}  # fmt: skip
WANTED = {
    "device": "wwn:5", "node": "node-1", "slot": 0, "power_loss_protected": False,
    "path": "/dev/sdb", "drive": None, "drive_id": None, "state": "pending", "code": "",
    "reason": "",
}  # fmt: skip
LIST = {"connected": True, "discovers": True, "items": [DEVICE], "next_cursor": None}


@pytest.fixture
def run(monkeypatch):
    asked: list[tuple[str, object]] = []

    def start(answers):
        def answer(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content) if request.content else None
            path = request.url.raw_path.decode()
            asked.append((f"{request.method} {path}", body))
            found = answers[f"{request.method} {path}"]
            status, data = found.pop(0) if isinstance(found, list) else found
            return httpx.Response(status, json=data)

        def rest(timeout_s: float = 30.0) -> Rest:
            return Rest("http://m", "t", transport=httpx.MockTransport(answer), timeout_s=timeout_s)

        monkeypatch.setattr(devices, "manager", rest)
        monkeypatch.setattr(devices, "POLL_S", 0.0)
        return asked, lambda *argv: CliRunner().invoke(app, argv, catch_exceptions=True)

    return start


def lists(found=LIST, wanted=()):
    return {
        "GET /v1/nodes/node-1/devices": (200, found),
        "GET /v1/nodes/node-1/devices?look=true": (200, found),
        "GET /v1/nodes/node-1/drives": (200, {"items": list(wanted)}),
    }


def test_devices_are_a_table_or_json(run):
    _, cli = run(lists())
    shown = cli("node", "devices", "node-1").output
    assert "wwn:5" in shown
    assert "1.0 TiB" in shown
    found = json.loads(cli("node", "devices", "node-1", "-o", "json").output)
    assert found["items"] == [DEVICE]
    assert found["wanted"] == []


def test_a_look_is_asked_for(run):
    asked, cli = run(lists())
    assert cli("node", "devices", "node-1", "--look").exit_code == 0
    assert asked[0][0].endswith("?look=true")


def test_a_wanted_drive_that_is_not_seen_is_in_the_table(run):
    away = WANTED | {"device": "wwn:6", "state": "pending"}
    _, cli = run(lists(wanted=[away]))
    shown = cli("node", "devices", "node-1").output
    assert "wwn:6" in shown
    assert "not seen" in shown


@pytest.mark.parametrize(
    ("change", "words"),
    [({"connected": False}, "is not connected"), ({"discovers": False}, "does not look")],
)
def test_an_empty_list_says_why(run, change, words):
    _, cli = run(lists(LIST | {"items": []} | change))
    assert words in cli("node", "devices", "node-1").output


def test_a_drive_is_added_by_path(run):
    asked, cli = run({"POST /v1/nodes/node-1/drives": (201, WANTED)})
    result = cli("drive", "add", "node-1", "/dev/sdb", "--power-loss-protected", "-o", "json")
    assert json.loads(result.output) == WANTED
    assert asked[0][1] == {"device": "/dev/sdb", "power_loss_protected": True}


def test_adding_waits_until_the_drive_is_up(run):
    steps = [(200, {"items": [WANTED | {"state": s}]}) for s in ("pending", "formatting", "up")]
    answers = {"POST /v1/nodes/node-1/drives": (201, WANTED), "GET /v1/nodes/node-1/drives": steps}
    asked, cli = run(answers)
    result = cli("drive", "add", "node-1", "/dev/sdb", "--wait", "-o", "json")
    assert json.loads(result.output)["state"] == "up"
    assert len(asked) == 4


def test_a_wait_ends_with_the_reason_of_a_refusal(run):
    refused = WANTED | {"state": "refused", "code": "drive_foreign", "reason": "it holds xfs"}
    answers = {
        "POST /v1/nodes/node-1/drives": (201, WANTED),
        "GET /v1/nodes/node-1/drives": [(200, {"items": [refused]})],
    }
    _, cli = run(answers)
    error = cli("drive", "add", "node-1", "/dev/sdb", "--wait").exception
    assert isinstance(error, ConflictError)
    assert (error.code, "it holds xfs" in error.message) == ("drive_foreign", True)


def test_a_wait_has_an_end(run, monkeypatch):
    monkeypatch.setattr(devices, "WAIT_S", 0.0)
    answers = {
        "POST /v1/nodes/node-1/drives": (201, WANTED),
        "GET /v1/nodes/node-1/drives": (200, {"items": [WANTED]}),
    }
    _, cli = run(answers)
    assert isinstance(cli("drive", "add", "node-1", "x", "--wait").exception, DeadlineError)


@pytest.mark.parametrize(
    ("device", "path"),
    [("wwn:5", "wwn:5"), ("/dev/sdb", "%2Fdev%2Fsdb"), ("file:/d/a.img", "file:%2Fd%2Fa.img")],
)
def test_a_drive_is_removed_by_id_or_path(run, device, path):
    asked, cli = run({f"DELETE /v1/nodes/node-1/drives/{path}": (204, None)})
    result = cli("drive", "remove", "node-1", device, "-o", "json")
    assert json.loads(result.output) == {"node": "node-1", "device": device, "removed": True}
    assert len(asked) == 1
