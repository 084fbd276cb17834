"""A run that is up: the cluster, its loads, and what watches them."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from drystone_common.errors import DrystoneError
from tests.e2e.lib.shell import Steps
from tests.e2e.lib.waits import wait_for
from tests.e2e.nemesis import conf
from tests.e2e.nemesis.check import check
from tests.e2e.nemesis.collect import collect, compact
from tests.e2e.nemesis.faults import Leaders
from tests.e2e.nemesis.lifecycle import Run
from tests.e2e.nemesis.plant import Plant
from tests.e2e.nemesis.settings import Lab, address
from tests.e2e.nemesis.told import ManagerLogs, Meters
from tests.e2e.nemesis.volumes import Volume, Volumes

GO_ON: Final = 50  # changes of each volume that show that it is served
GO_ON_S: Final = 60.0
LEADERS_S: Final = 30.0
ANSWER_S: Final = 2.0
LOOK_S: Final = 0.1


@dataclass(slots=True)
class Totals:
    """What a whole run did."""

    operations: int = 0
    unknown: int = 0
    blocks_compared: int = 0
    blocks_told: int = 0
    attempts: int = 0
    refused: int = 0
    lost_attempts: int = 0
    events: Counter[str] = field(default_factory=Counter)


class World:
    """Everything that a lap needs."""

    def __init__(self, run: Run, plant: Plant, volumes: Volumes, steps: Steps) -> None:
        self.run, self.plant, self.volumes, self.steps = run, plant, volumes, steps
        self.lab: Lab = run.lab
        self.net = run.net
        self.chance = random.Random(f"laps/{run.lab.seed}/{run.lab.servers}")
        self.logs, self.meters = ManagerLogs(run.lab), Meters(run.lab)
        self.totals = Totals()
        self.quiet_s = 0.0  # the longest wait of a client without any fault
        self.lasts_max_s = math.inf  # the short form's faults end sooner

    def close(self) -> None:
        """Give up what is only for looking on."""
        self.meters.close()

    def leaders(self) -> Leaders:
        """Who leads now."""

        def asked() -> Leaders | None:
            try:
                name = self.plant.rest.get("/v1/health").get("leader_name")
            except DrystoneError:
                return None
            etcd = self._etcd_leader()
            return Leaders(str(name).partition("-")[2], etcd) if name and etcd else None

        found = wait_for(asked, "a leader of managers and of etcd", LEADERS_S)
        assert found is not None
        return found

    def _etcd_leader(self) -> str | None:
        for group in self.lab.manager_groups:
            url = f"http://{address(group)}:{conf.ETCD_CLIENT}/v3/maintenance/status"
            try:
                said: Any = httpx.post(url, json={}, trust_env=False, timeout=ANSWER_S).json()
            except (httpx.HTTPError, ValueError):
                continue
            if said.get("leader") and said["leader"] == said.get("header", {}).get("member_id"):
                return group
        return None

    def go(self) -> None:
        """All loads work."""
        for each in self.volumes.all:
            each.client.go()

    def rest(self) -> None:
        """No load works, nothing is under way."""
        for each in self.volumes.all:
            each.client.rest()

    def goes_on(self, deadline_s: float = GO_ON_S) -> None:
        """Every load is served."""
        for each in self.volumes.all:
            each.client.goes_on(GO_ON, deadline_s)

    def lasts(self, seconds: float) -> None:
        """Let time go by; a process that ends by itself meanwhile fails the run."""
        end = time.monotonic() + seconds

        def over() -> bool:
            self.plant.must_live()
            return time.monotonic() >= end

        wait_for(over, "time to go by", seconds + 1.0, poll_s=min(LOOK_S, seconds / 10))

    def whole(self) -> None:
        """Everything is in sync, and every load is served."""
        self.plant.wait_in_sync()
        self.goes_on()
        self.plant.wait_in_sync()

    def settle(self) -> list[str]:
        """Every block is read once, and all that was seen is judged: problems, in words.

        What was good is the base of what follows; what was not stays as it is for a person.
        """
        for each in self.volumes.all:
            each.client.checkpoint()
        return [words for each in self.volumes.all for words in self._judged(each)]

    def _judged(self, volume: Volume) -> list[str]:
        found = collect(volume.folder)
        verdict = check(found.history)
        self.totals.operations += verdict.operations
        self.totals.unknown += verdict.unknown
        if not verdict.clean:
            return [verdict.words(volume.name)]
        compact(found)
        return []

    def keep_evidence(self, number: int) -> None:
        """Keep the journals of a lap that missed a figure: a good verdict makes a base of them."""
        for each in self.volumes.all:
            shutil.copytree(each.folder, self.lab.folder / f"lap-{number}" / each.name)
