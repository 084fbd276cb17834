"""Errors travel between processes unchanged, and a hostile sender cannot abuse them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drystone_common import errors

CLASSES: list[type[errors.DrystoneError]] = [
    errors.DrystoneError,
    # Only those that travel: other packages may name a kind of their own more closely.
    *(c for c in errors.DrystoneError.__subclasses__() if c.__module__ == errors.__name__),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_its_way_through_json(cls):
    sent = cls("volume db is attached", hint="detach it", code="in_use", details={"node": "n1"})
    got = errors.error_from_dict(json.loads(json.dumps(sent.as_dict())))
    assert type(got) is cls
    assert got.as_dict() == sent.as_dict()


def test_kinds_are_distinct_and_complete():
    assert sorted(errors.KINDS) == sorted({cls.kind for cls in CLASSES})
    assert len(errors.KINDS) == len(CLASSES)


def test_the_code_of_an_error_without_one_is_that_of_its_class():
    assert errors.NotFoundError("no such pool").code == "not_found"


def test_text_shows_message_and_hint():
    assert str(errors.ConflictError("busy", hint="wait")) == "busy (wait)"
    assert str(errors.ConflictError("busy")) == "busy"


def test_exit_codes_are_published_numbers():
    assert {code.name: int(code) for code in errors.ExitCode} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "NOT_FOUND": 3, "CONFLICT": 4, "UNAVAILABLE": 5,
        "DENIED": 6, "DEADLINE": 7, "NO_SPACE": 8, "DATA": 9, "INTERNAL": 70,
    }  # fmt: skip


@given(st.dictionaries(st.sampled_from(["kind", "code", "message", "hint", "details"]), JSON))
def test_any_json_object_becomes_a_bounded_error(data):
    error = errors.error_from_dict(data)
    assert error.message
    assert len(error.details) <= 32
    json.dumps(error.as_dict())


def test_what_a_peer_sends_is_cut():
    error = errors.error_from_dict(
        {"message": "x" * 10**6, "details": {str(i): "y" * 10**4 for i in range(100)}}
    )
    assert len(error.message) == 4096
    assert len(error.details) == 32
    assert {len(str(value)) for value in error.details.values()} == {1024}
