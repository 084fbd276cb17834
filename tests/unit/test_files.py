"""Files are replaced whole and durably; reads are bounded."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drystone_common import files
from drystone_common.errors import DataError, NotFoundError


@pytest.fixture
def record(monkeypatch):
    """The order of the system calls that durability depends on."""
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        is_dir = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("fsync folder" if is_dir else "fsync file")
        real_fsync(descriptor)

    def replace(*args, **kwargs):
        calls.append("rename")
        real_replace(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return calls


def test_content_is_flushed_before_the_rename_and_the_folder_after_it(tmp_path, record):
    files.atomic_write(tmp_path / "state", b"new")
    assert record == ["fsync file", "rename", "fsync folder"]


def test_the_old_content_stays_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "state"
    files.atomic_write(path, b"old")

    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        files.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_new_files_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        files.atomic_write_text(tmp_path / "token", "t")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        files.atomic_write(tmp_path / "public", b"x", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(value=st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=5))
def test_json_reads_back_what_was_written(tmp_path, value):
    path = tmp_path / "cluster.json"
    files.atomic_write_json(path, value)
    assert files.read_json(path) == value


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"x" * 11)
    assert files.read_limited(path, bytes_max=11) == b"x" * 11
    with pytest.raises(DataError, match="larger than 10") as caught:
        files.read_limited(path, bytes_max=10)
    assert caught.value.code == "file_too_large"


def test_a_missing_file_is_its_own_error(tmp_path):
    with pytest.raises(NotFoundError):
        files.read_json(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_its_own_error(tmp_path, content):
    path = tmp_path / "cluster.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        files.read_json(path)
    assert caught.value.code == "file_damaged"
