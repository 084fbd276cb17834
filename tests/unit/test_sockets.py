"""The place of a unix socket is taken from the dead only."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from drystone_common.errors import ConflictError, InvalidArgumentError
from drystone_common.sockets import PATH_BYTES_MAX, check_socket_path, make_room


def bound(path: Path, *, listening: bool) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    if listening:
        made.listen()
    return made


def test_a_free_place_is_left_as_it_is(tmp_path):
    assert make_room(tmp_path / "s") == f"unix://{tmp_path}/s"
    assert list(tmp_path.iterdir()) == []


def test_the_socket_of_a_dead_process_is_removed(tmp_path):
    path = tmp_path / "s"
    bound(path, listening=False).close()
    make_room(path)
    assert not path.exists()


def test_a_socket_that_is_served_stays_and_is_refused(tmp_path):
    path = tmp_path / "s"
    with bound(path, listening=True), pytest.raises(ConflictError) as caught:
        make_room(path)
    assert caught.value.code == "socket_in_use"
    assert path.exists()


def test_a_file_and_a_link_are_nobodys_to_remove(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(file)
    for path in (file, link):
        with pytest.raises(ConflictError):
            make_room(path)
    assert link.read_text() == "mine"


def test_a_path_longer_than_the_kernel_takes_is_refused_in_words(tmp_path):
    longest = Path("/" + "a" * (PATH_BYTES_MAX - 1))
    assert check_socket_path(longest) == longest
    with pytest.raises(InvalidArgumentError):
        check_socket_path(Path("/" + "a" * PATH_BYTES_MAX))
