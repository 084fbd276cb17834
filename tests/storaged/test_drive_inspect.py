"""A look at a drive changes nothing, refuses what is no drive, and says what it saw."""

from __future__ import annotations

import fcntl
import hashlib
import json
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drystone_cli.app import app

native = pytest.importorskip("drystone_native")
MIB = 1 << 20


@pytest.fixture
def drive(tmp_path) -> Path:
    path = tmp_path / "drive.img"
    spec = {
        "cluster": str(uuid.UUID(int=1)), "uuid": str(uuid.UUID(int=2)), "feature_level": 1,
        "segment_bytes": MIB, "create_bytes": 64 * MIB,
    }  # fmt: skip
    native.format_drive(str(path), json.dumps(spec))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_fresh_drive_is_told_as_it_is_and_stays_so(drive):
    before = digest(drive)
    drive.chmod(0o400)
    facts = json.loads(native.drive_facts(str(drive)))
    assert (facts["uuid"], facts["cluster"]) == (str(uuid.UUID(int=2)), str(uuid.UUID(int=1)))
    assert facts["pgs"] == facts["volumes"] == facts["freed"] == facts["damaged"] == []
    blocks = json.loads(native.drive_blocks(str(drive)))
    assert (blocks["data"], blocks["pgs"], blocks["suspect"]) == (0, [], None)
    assert digest(drive) == before


def test_several_may_look_at_once_but_not_beside_a_server(drive):
    with drive.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        native.drive_facts(str(drive))
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(native.NativeError, match="is open elsewhere"):
            native.drive_facts(str(drive))


def test_what_is_no_drive_is_refused_with_the_reason(tmp_path):
    blank = tmp_path / "blank.img"
    with blank.open("wb") as file:
        file.truncate(64 * MIB)
    short = tmp_path / "short.img"
    short.write_bytes(b"x" * 100)
    cases = {
        blank: "is blank", tmp_path: "neither a file",
        tmp_path / "none": "no such", short: "100 bytes",
    }  # fmt: skip
    for path, reason in cases.items():
        with pytest.raises(native.NativeError, match=reason):
            native.drive_blocks(str(path))


def test_the_command_prints_both_forms_and_a_refusal(drive, tmp_path):
    run = CliRunner().invoke
    lines = tmp_path / "lines"
    shown = run(app, ["drive", "inspect", str(drive), "--blocks", "-o", "json"])
    assert json.loads(shown.stdout)["blocks"]["rotten"] == 0
    text = run(app, ["drive", "inspect", str(drive), "--out", str(lines)]).stdout
    assert str(uuid.UUID(int=2)) in text
    assert "unproven" in text
    assert lines.read_text() == ""
    refused = run(app, ["drive", "inspect", str(tmp_path)])
    assert refused.exit_code != 0
    assert "neither a file" in str(refused.exception)
    assert getattr(refused.exception, "hint", None)
