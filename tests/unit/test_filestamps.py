"""A file that is another one, or was written to, has another stamp."""

from __future__ import annotations

import os

import pytest

from drystone_common.filestamps import stamp, stamps


def test_a_file_that_is_left_alone_keeps_its_stamp(tmp_path):
    (tmp_path / "f").write_text("a")
    assert stamp(tmp_path / "f") == stamp(str(tmp_path / "f"))


def test_a_write_of_the_same_size_and_a_swapped_link_are_seen(tmp_path):
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "f").write_text("a")
    link = tmp_path / "data"
    link.symlink_to("one")
    before = stamp(link / "f")
    link.unlink()
    link.symlink_to("two")
    assert stamp(link / "f") != before
    before = stamp(link / "f")
    os.utime(link / "f", ns=(0, 0))
    assert stamp(link / "f") != before


def test_a_file_that_is_not_there_has_zeros_among_others_and_an_error_alone(tmp_path):
    (tmp_path / "f").write_text("a")
    assert stamps([tmp_path / "f", tmp_path / "g"]) == (stamp(tmp_path / "f"), (0, 0, 0))
    with pytest.raises(FileNotFoundError):
        stamp(tmp_path / "g")
