"""A step about silent corruption: bits flipped in a drive file while everything runs."""

from __future__ import annotations

import json
from typing import Final

from tests.e2e.demo.world import World
from tests.e2e.lib.blocks import BlockSet
from tests.e2e.lib.content import content
from tests.e2e.lib.rot import flip
from tests.e2e.lib.waits import wait_for

NODE: Final = "node-3"
BLOCKS: Final = 16
REPORT_WAIT_S: Final = 30.0  # a server tells its figures every 5 s
SCRUB_WAIT_S: Final = 120.0


def flip_and_heal(world: World) -> None:
    """Damage blocks of one copy; reads stay right, a scrub finds and heals what is left."""
    report, cluster = world.report, world.cluster
    known = world.raw.known
    if not isinstance(known, BlockSet):
        raise TypeError("the raw volume holds known blocks")
    drive = next(d for d in cluster.status()["drives"] if d["node"] == NODE)
    image = cluster.folder / "drives" / NODE / "1.img"
    flipped = flip(image, [content(known.seed, n, 1) for n in range(BLOCKS)])
    report.check("known blocks are in the drive's file", holds=flipped > 0)
    report.figure("bits flipped in one drive file", f"{flipped}, each in another block")
    world.check_content("the damaged volume", known.verify)
    cluster.cli("drive", "scrub", str(drive["id"]), "--wait", timeout_s=SCRUB_WAIT_S)

    def healed() -> int:
        shown = json.loads(cluster.cli("drive", "show", str(drive["id"]), "-o", "json"))
        return int(shown["healed_blocks"]) - int(drive["healed_blocks"] or 0)

    wait_for(lambda: healed() >= flipped, f"{flipped} blocks healed", REPORT_WAIT_S, poll_s=0.5)
    report.figure("blocks healed", str(healed()))
    cluster.cli("drive", "scrub", str(drive["id"]), "--wait", timeout_s=SCRUB_WAIT_S)
    report.check("a second scrub finds nothing more to heal", holds=healed() == flipped)
    world.check_content("the healed volume", known.verify)
