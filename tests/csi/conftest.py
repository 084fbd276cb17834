"""What the tests of the driver share."""

from __future__ import annotations

import pytest

from tests.csi.driver import Driver
from tests.csi.nbd_peer import Server


@pytest.fixture
def driver(tmp_path):
    return Driver(tmp_path)


@pytest.fixture
def server(tmp_path):
    """An NBD server with 64 MiB, which a test may kill and start."""
    peer = Server(tmp_path, 64 << 20)
    peer.start()
    yield peer
    peer.kill()
