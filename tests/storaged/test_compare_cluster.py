"""Scrubs and comparisons of a real cluster whose drive files are damaged behind its back."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.e2e.lib.blocks import BlockSet
from tests.e2e.lib.cluster import Cluster, temporary_cluster
from tests.e2e.lib.content import BLOCK_BYTES, content
from tests.e2e.lib.rot import READ_BYTES, flip
from tests.e2e.lib.sparse import extents
from tests.e2e.lib.waits import wait_for

NODE = "node-2"
SEED = 5
WAIT_S = 120.0  # a scrub of a few MiB, on a host that is busy with other tests


def compare(cluster: Cluster) -> str:
    found = cluster.cli("pool", "compare", "default", "--wait", "-o", "json", timeout_s=WAIT_S)
    task = json.loads(found)
    assert task["state"] == "done"
    assert (task["done"], task["total"]) == (64, 64)
    return str(task["message"])


def damage_header(image: Path) -> int:
    """Flip a bit of the header before each stored copy of the first block; how many there were."""
    wanted, found = content(SEED, 0, 1), []
    file = os.open(image, os.O_RDWR)
    try:
        for begin, end in extents(file):
            for at in range(begin, end, READ_BYTES):
                data = os.pread(file, min(READ_BYTES, end - at), at)
                found += [at + m.start() for m in re.finditer(re.escape(wanted[:16]), data)]
        for at in found:
            (byte,) = os.pread(file, 1, at - BLOCK_BYTES + 40)
            os.pwrite(file, bytes([byte ^ 0x10]), at - BLOCK_BYTES + 40)
        os.fsync(file)
    finally:
        os.close(file)
    return len(found)


@pytest.mark.timeout(480)  # several looks at all of it on slow disks
def test_damage_of_one_copy_is_told_by_a_comparison_and_healed_by_a_scrub():
    with temporary_cluster("compare", "--servers", "3", "--drive-size", "2Gi") as cluster:
        cluster.cli("volume", "create", "v", "--size", "64Mi")
        attached = cluster.attach("v", "block-1", "export")
        known = BlockSet(attached["nbd_uri"], 0, SEED)
        known.add()

        def settled() -> bool:
            return compare(cluster) == "256 blocks of 64 groups compared, all equal"

        wait_for(settled, "everything stable and equal", WAIT_S)
        number = next(d["id"] for d in cluster.status()["drives"] if d["node"] == NODE)
        image = cluster.folder / "drives" / NODE / "1.img"

        # The data of some blocks, and what says which version a run of blocks has.
        assert damage_header(image) > 0
        assert "cannot be read at a copy" in compare(cluster)
        flip(image, [content(SEED, n, 1) for n in range(100, 110)])
        cluster.cli("drive", "scrub", str(number), "--wait", timeout_s=WAIT_S)

        wait_for(settled, "everything healed and equal", WAIT_S)
        shown = cluster.rest.get(f"/v1/drives/{number}")["scrub"]
        assert (shown["bad"] >= 10, shown["left"]) == (True, 0)
        assert cluster.rest.get("/v1/pools/default")["compare"]["divergent"] == 0
        assert "now" in cluster.cli("drive", "list")
        assert known.verify() == known.bytes_known
