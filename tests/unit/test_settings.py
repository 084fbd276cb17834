"""Where settings come from, in which order, and what a mistake looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from drystone_common.errors import InvalidArgumentError
from drystone_common.settings import Settings, load_settings, state_dir


class Listen(BaseModel):
    host: str = "127.0.0.1"
    port: int = Field(default=8460, ge=1, le=65535)


class Example(Settings):
    name: str = "n1"
    limit: int = 10
    token: str = ""
    listen: Listen = Listen()


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "drystone.toml"
    path.write_text('name = "file"\nlimit = 1\n[listen]\nport = 9000\n')
    return path


def test_defaults_hold_when_nothing_is_given():
    assert load_settings(Example) == Example()


def test_the_file_beats_the_default(file):
    got = load_settings(Example, file=file)
    assert (got.name, got.listen.port, got.listen.host) == ("file", 9000, "127.0.0.1")


def test_the_environment_beats_the_file(file, monkeypatch):
    monkeypatch.setenv("DRYSTONE_NAME", "env")
    monkeypatch.setenv("DRYSTONE_LISTEN__PORT", "9001")
    got = load_settings(Example, file=file)
    assert (got.name, got.limit, got.listen.port) == ("env", 1, 9001)


def test_the_caller_beats_the_environment(monkeypatch):
    monkeypatch.setenv("DRYSTONE_NAME", "env")
    assert load_settings(Example, overrides={"name": "call", "limit": None}).name == "call"


def test_the_result_is_the_class_asked_for_and_immutable(file):
    got = load_settings(Example, file=file)
    assert type(got) is Example
    with pytest.raises(ValueError, match="frozen"):
        got.name = "other"  # type: ignore[misc]  # that it is refused is the point


def test_every_mistake_is_named_and_no_value_is_shown(file):
    overrides = {"limit": "s3cret-many", "tokn": "s3cret"}
    with pytest.raises(InvalidArgumentError) as caught:
        load_settings(Example, file=file, overrides=overrides)
    text = str(caught.value)
    assert "limit" in text
    assert "tokn" in text
    assert "s3cret" not in text
    assert str(file) in text


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"= \xff")
    with pytest.raises(InvalidArgumentError, match="not a TOML file"):
        load_settings(Example, file=path)


def test_the_state_folder_is_the_variable_then_the_users_own(monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("DRYSTONE_DIR", raising=False)
    assert state_dir() == Path("/home/u/.local/state/drystone")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_dir() == Path("/state/drystone")
    monkeypatch.setenv("DRYSTONE_DIR", "~/d")
    assert state_dir() == Path("/home/u/d")
