"""fio's own verification against a cluster whose servers are killed: the short form.

`python -m tests.e2e.verify --seconds 60` is the long one.
"""

from __future__ import annotations

import pytest

from tests.e2e.lib.cluster import temporary_cluster
from tests.e2e.verify.run import verify_under_kills


@pytest.mark.timeout(300)  # a cluster, fifteen seconds of load, a kill and a resync on slow disks
def test_fio_verifies_what_it_wrote_while_servers_are_killed():
    with temporary_cluster("test", "--servers", "3", "--drive-size", "2Gi") as cluster:
        seen = verify_under_kills(cluster, run_s=15.0, kills_min=1)
    assert seen.verified_bytes > 0
    assert seen.kills >= 1
