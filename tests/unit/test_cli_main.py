"""The root of the command line: versions, and errors that say what to do next."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from drystone_cli.main import app, main
from drystone_common import __version__
from drystone_common.errors import ConflictError, NotFoundError


def test_version_is_printed_for_people_and_for_programs():
    assert CliRunner().invoke(app, ["version"]).output.strip() == __version__
    shown = json.loads(CliRunner().invoke(app, ["version", "-o", "json"]).output)
    assert shown == {"version": __version__}


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
