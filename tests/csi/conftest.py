"""What the tests of the driver share."""

from __future__ import annotations

import pytest

from tests.csi.driver import Driver


@pytest.fixture
def driver(tmp_path):
    return Driver(tmp_path)
