"""Emptying drives and balancing pools, from the command line."""

from __future__ import annotations

import json

import httpx
import pytest
from typer.testing import CliRunner

from drystone_cli import moves
from drystone_cli.app import app
from drystone_common.errors import ConflictError, InvalidArgumentError
from drystone_storaged.agent.rest import Rest


def drive(held: int, *, evacuating: bool = True, number: int = 7) -> dict:
    return {
        "id": number, "node": "node-2", "state": "up", "evacuating": evacuating, "held": held,
    }  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    """Answers in turn for each call; the last one again and again."""
    asked: list[str] = []

    def start(answers: dict[str, list]):
        def answer(request: httpx.Request) -> httpx.Response:
            key = f"{request.method} {request.url.raw_path.decode()}"
            asked.append(key)
            left = answers[key]
            return httpx.Response(200, json=left.pop(0) if len(left) > 1 else left[0])

        def rest(timeout_s: float = 30.0) -> Rest:
            transport = httpx.MockTransport(answer)
            return Rest("http://manager", "secret", transport=transport, timeout_s=timeout_s)

        monkeypatch.setattr(moves, "manager", rest)
        monkeypatch.setattr(moves, "POLL_S", 0.0)
        return lambda *argv: CliRunner().invoke(app, argv, catch_exceptions=True)

    start.asked = asked  # type: ignore[attr-defined]
    return start


def test_an_evacuation_is_waited_for_until_nothing_counts_on_the_drive(run):
    cli = run({"POST /v1/drives/7/evacuate": [drive(9)], "GET /v1/drives/7": [drive(4), drive(0)]})
    found = cli("drive", "evacuate", "7", "--wait")
    assert found.exit_code == 0, found.exception
    assert "done: it can be removed" in found.output
    assert run.asked == ["POST /v1/drives/7/evacuate", "GET /v1/drives/7", "GET /v1/drives/7"]


def test_without_wait_it_says_how_much_is_left(run):
    cli = run({"POST /v1/drives/7/evacuate": [drive(9)]})
    assert "9 placement groups left" in cli("drive", "evacuate", "7").output


def test_an_evacuation_that_somebody_else_calls_off_ends_the_wait(run):
    cli = run(
        {
            "POST /v1/drives/7/evacuate": [drive(9)],
            "GET /v1/drives/7": [drive(8, evacuating=False)],
        }
    )
    found = cli("drive", "evacuate", "7", "--wait", "-o", "json")
    assert json.loads(found.stdout)["held"] == 8
    # A script that goes on to `drive remove` must not take this for an empty drive.
    assert isinstance(found.exception, ConflictError)
    assert found.exception.code == "evacuation_called_off"


def test_a_node_is_kept_with_all_its_drives(run):
    cli = run(
        {
            "DELETE /v1/nodes/node-2/evacuate": [{}],
            "GET /v1/nodes/node-2": [{"drives": [7, 8]}],
            "GET /v1/drives/7": [drive(3, evacuating=False)],
            "GET /v1/drives/8": [drive(5, evacuating=False, number=8)],
        }
    )
    found = json.loads(cli("node", "evacuate", "node-2", "--cancel", "-o", "json").output)
    assert [d["id"] for d in found["drives"]] == [7, 8]


def test_a_plan_shows_who_gains_and_who_loses(run):
    plan = {
        "pool": "default", "moves": 2, "bytes": 8192,
        "drives": [{"drive": 4, "node": "node-4", "gains": 2, "loses": 0}],
    }  # fmt: skip
    cli = run({"POST /v1/pools/default/rebalance?plan=true": [plan, {**plan, "moves": 0}]})
    shown = cli("pool", "rebalance", "default", "--plan").output
    assert "2 copies of placement groups would move, 8.0 KiB" in shown
    assert "node-4" in shown
    assert "nothing would move" in cli("pool", "rebalance", "default", "--plan").output
    refused = cli("pool", "rebalance", "default", "--plan", "--wait").exception
    assert isinstance(refused, InvalidArgumentError)


def test_a_rebalance_is_a_task(run):
    task = {"id": 5, "state": "running", "done": 0, "total": 4, "message": ""}
    ended = {**task, "state": "done", "done": 4, "message": "every drive has its share"}
    cli = run({"POST /v1/pools/default/rebalance": [task], "GET /v1/tasks/5": [ended]})
    assert "task 5" in cli("pool", "rebalance", "default").output
    assert "every drive has its share" in cli("pool", "rebalance", "default", "--wait").output
