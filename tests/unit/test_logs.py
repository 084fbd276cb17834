"""Logs are one line of JSON an event, whoever wrote it, and never hold a secret."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from drystone_common import logs


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure_logging("server", stream=out, fmt="json")
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_an_event_is_one_line_with_its_context(stream):
    structlog.contextvars.bind_contextvars(volume="db")
    logs.get_logger("x").info("drive_opened", drive=3)
    (line,) = lines(stream)
    assert line["event"] == "drive_opened"
    assert (line["component"], line["level"], line["logger"]) == ("server", "info", "x")
    assert (line["drive"], line["volume"]) == (3, "db")
    assert str(line["timestamp"]).endswith("Z")


def test_the_standard_librarys_loggers_come_out_in_the_same_form(stream):
    logging.getLogger("uvicorn.error").warning("%s closed", "connection")
    (line,) = lines(stream)
    assert line["event"] == "connection closed"
    assert line["component"] == "server"


def test_levels_below_the_chosen_one_are_dropped(stream):
    logs.get_logger("x").debug("noise")
    assert lines(stream) == []


def test_an_exception_stays_on_one_line(stream):
    try:
        raise ValueError("broken")
    except ValueError:
        logs.get_logger("x").exception("failed")
    (line,) = lines(stream)
    assert "ValueError" in json.dumps(line["exception"])


@pytest.mark.parametrize(
    "key",
    ["token", "api_token", "password", "Authorization", "secrets", "attach_ticket", "key",
     "node_key", "master", "private_pem", "credential"],
)  # fmt: skip
def test_values_of_secret_keys_are_replaced(stream, key):
    logs.get_logger("x").info("call", **{key: "hunter2"}, nested={"list": [{key: "hunter2"}]})
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count(logs.REDACTED) == 2


def test_words_that_only_contain_key_stay_readable(stream):
    logs.get_logger("x").info("call", keyspace="a", monkey="b")
    (line,) = lines(stream)
    assert (line["keyspace"], line["monkey"]) == ("a", "b")


def test_bytes_are_logged_by_length_only(stream):
    logs.get_logger("x").info("frame", payload=b"user data")
    assert lines(stream)[0]["payload"] == "[9 bytes]"


def test_endlessly_nested_values_are_cut(stream):
    value: dict[str, object] = {}
    value["again"] = value
    logs.get_logger("x").info("loop", value=value, wide=list(range(10_000)))
    assert len(stream.getvalue()) < 2000


def test_console_output_is_for_people():
    out = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure_logging("server", stream=out, fmt="console")
        logs.get_logger("x").info("drive_opened", drive=3)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert "drive_opened" in out.getvalue()
    assert not out.getvalue().startswith("{")


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_a_traceback_shows_no_local_variables(stream, fmt):
    """Among them are keys and credentials, in whatever object happens to be at hand."""
    logs.configure_logging("server", stream=stream, fmt=fmt)
    master = b"very-" + b"private"
    holder = {"credential": "dsc1-" + "hidden"}
    try:
        raise ValueError(len(master) + len(holder))
    except ValueError:
        logs.get_logger("x").exception("call_failed")
    text = stream.getvalue()
    assert "ValueError" in text
    assert "test_a_traceback_shows_no_local_variables" in text
    assert "very-private" not in text
    assert "dsc1-hidden" not in text
