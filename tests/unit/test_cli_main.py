"""The root of the command line: versions, help, and errors that say what to do next."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from drystone_cli.app import app
from drystone_cli.main import main
from drystone_common import __version__
from drystone_common.errors import ConflictError, NotFoundError

COMMANDS = (
    "local up", "local status", "local down", "local destroy", "local stop", "local start",
    "pool create", "pool list", "pool show", "pool set", "pool delete", "pool mark-lost",
    "volume create", "volume list", "volume show", "volume resize", "volume delete",
    "volume fence", "volume attach", "volume detach",
    "status", "node list", "node forget", "drive list", "drive show", "drive forget", "drive scrub",
    "map", "node join-token", "task list", "task show",
    "manager", "server", "beacon", "block", "csi", "version",
)  # fmt: skip


def test_version_is_printed_for_people_and_for_programs():
    assert CliRunner().invoke(app, ["version"]).output.strip() == __version__
    shown = json.loads(CliRunner().invoke(app, ["version", "-o", "json"]).output)
    assert shown == {"version": __version__}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output
    # A sentence, not just a list of options.
    assert "." in result.output.split("Options")[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotFoundError("no volume db", hint="run drystone volume list"), 3), (ConflictError("x"), 4)],
)
def test_an_error_becomes_its_message_its_hint_and_its_exit_code(capsys, error, code):
    def run():
        raise error

    with pytest.raises(SystemExit) as caught:
        main(run)
    assert caught.value.code == code
    shown = capsys.readouterr().err
    assert f"error: {error.message}" in shown
    assert (f"hint: {error.hint}" in shown) == (error.hint is not None)


def test_an_interrupt_ends_as_shells_expect():
    def run():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        main(run)
    assert caught.value.code == 130
