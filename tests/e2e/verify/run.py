"""fio writes and verifies over NBD while servers are killed in turn, each after in-sync again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.e2e.lib import fio
from tests.e2e.lib.cluster import Cluster
from tests.e2e.lib.waits import NotSeenError, wait_for

VOLUME: Final = "verify"
VOLUME_SIZE: Final = "512Mi"
NODE: Final = "block-1"
FIRST_KILL_AFTER_S: Final = 2.0  # fio has connected and writes
DOWN_WAIT_S: Final = 30.0
END_WAIT_S: Final = 120.0
ROUND_S: Final = 5.0
"""A kill, its detection, a restart and a resync: no new round begins that late before the end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was verified, and how often a server was killed meanwhile."""

    verified_bytes: int
    written_bytes: int
    kills: int


def verify_under_kills(
    cluster: Cluster, run_s: float, kills_min: int, say: Callable[[str], None] = print
) -> Outcome:
    """Run fio; it goes on for ``run_s`` and until so many kills were survived."""
    cluster.cli("volume", "create", VOLUME, "--size", VOLUME_SIZE)
    uri = cluster.attach(VOLUME, NODE, "export")["nbd_uri"]
    kills, written, verified = 0, 0, 0
    ends = time.monotonic() + run_s
    while kills < kills_min or time.monotonic() < ends:
        part_s = max(ends - time.monotonic(), ROUND_S * (kills_min - kills), ROUND_S)
        result, killed = _part(cluster, uri, part_s, kills, say)
        kills += killed
        written += result.write.bytes
        verified += result.read.bytes
    cluster.wait_in_sync()
    cluster.cli("volume", "detach", VOLUME, "--node", NODE)
    cluster.cli("volume", "delete", VOLUME)
    return Outcome(verified, written, kills)


def _part(
    cluster: Cluster, uri: str, part_s: float, killed_before: int, say: Callable[[str], None]
) -> tuple[fio.Result, int]:
    """One run of fio with as many kills as fit into it."""
    options = {
        "rw": "randwrite", "bs": "4k", "iodepth": 16, "size": "100%", "time_based": 1,
        "runtime": f"{part_s:.0f}", "randseed": killed_before + 1, "verify": "crc32c",
        "verify_fatal": 1, "verify_backlog": 1024,
    }  # fmt: skip
    argv = fio.command({"ioengine": "nbd", "uri": uri}, options)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ends = time.monotonic() + part_s
        kills = _kill_in_turn(cluster, process, ends, killed_before, say)
        output, errors = process.communicate(timeout=part_s + END_WAIT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return fio.parse(process.returncode, output, errors), kills


def _kill_in_turn(
    cluster: Cluster,
    process: subprocess.Popen[str],
    ends: float,
    killed_before: int,
    say: Callable[[str], None],
) -> int:
    names = cluster.server_names()
    kills = 0
    time.sleep(FIRST_KILL_AFTER_S)
    while process.poll() is None and (kills == 0 or time.monotonic() + ROUND_S < ends):
        name = names[(killed_before + kills) % len(names)]
        cluster.cli("local", "stop", name, "--signal", "KILL")
        wait_for(lambda: not cluster.in_sync(), f"{name} is missed", DOWN_WAIT_S)
        cluster.cli("local", "start", name)
        try:
            cluster.wait_in_sync()
        except NotSeenError as error:
            raise NotSeenError(f"after the kill of {name}: {error}") from error
        kills += 1
        say(f"  {name} was killed, started and is in sync again")
    return kills
