"""Refusals that native threads count, and calls that a manager refuses, are said in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import structlog

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    UnauthenticatedError,
)
from drystone_storaged.agent.strangers import CONNECTIONS, DATAGRAMS, Strangers
from drystone_storaged.manager.tally import Tally
from tests.storaged.fake_native import BEACON_STATS, DRIVE_STATS

CRATES = Path(__file__).resolve().parents[2] / "storaged/native/crates"


@pytest.fixture
def lines():
    with structlog.testing.capture_logs() as found:
        yield found


def test_every_reason_of_the_native_side_has_a_sentence():
    assert set(DATAGRAMS) == set(BEACON_STATS["refused"])
    assert set(CONNECTIONS) == set(DRIVE_STATS["refused"])
    counted = re.findall(r'"(\w+)"', (CRATES / "server/src/drive/peers.rs").read_text())
    assert set(CONNECTIONS) <= set(counted)


def test_a_refusal_is_told_with_its_number_and_its_meaning(lines):
    strangers = Strangers()
    strangers.datagrams({"bad_mac": 3, "stale": 0})
    strangers.connections(7, {"bad_proof": 1})
    strangers.denied(7, 2)
    strangers.datagrams({"bad_mac": 4})
    said = [(e["event"], e.get("drive"), e.get("reason"), e["count"]) for e in lines]
    assert said == [
        ("datagrams_refused", None, "bad_mac", 3),
        ("connections_refused", 7, "bad_proof", 1),
        ("requests_denied", 7, None, 2),
    ]
    assert all(e["meaning"] and e["log_level"] == "warning" for e in lines)


def test_a_strangers_calls_are_counted_each_and_told_once_a_minute(lines):
    tally = Tally()
    for _ in range(100):
        tally.refused_call("rest", UnauthenticatedError("a valid token is needed"), "10.0.0.9")
    assert tally.refused_calls["rest", "unauthenticated"] == 100
    (line,) = lines
    assert (line["event"], line["code"]) == ("calls_refused", "unauthenticated")
    assert (line["reason"], line["caller"]) == ("a valid token is needed", "10.0.0.9")


def test_what_a_person_asked_wrongly_is_answered_and_not_logged(lines):
    tally = Tally()
    for error in (InvalidArgumentError("no"), ConflictError("no"), AlreadyExistsError("no")):
        tally.refused_call("rest", error, "10.0.0.9")
    tally.refused_call("control", ConflictError("no"), "10.0.0.9")
    assert not lines
    tally.refused_call("control", AlreadyExistsError("the name is taken"), "10.0.0.9")
    assert [line["reason"] for line in lines] == ["the name is taken"]
