"""The volumes of a run: where each is attached, who loads it, and where its journals are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from drystone_cli import attachments
from drystone_cli.context import Cluster
from drystone_common.errors import DrystoneError, NotFoundError
from drystone_common.files import atomic_write_text
from tests.e2e.lib.waits import wait_for
from tests.e2e.nemesis import conf
from tests.e2e.nemesis.base import note_fence
from tests.e2e.nemesis.client import Client
from tests.e2e.nemesis.mix import Layout, Target, Task
from tests.e2e.nemesis.plant import Plant
from tests.e2e.nemesis.settings import Lab, other_of

SIZE: Final = 64 << 20
LATE: Final = 100  # clients that stay with the old attachment are numbered from here on
ATTACH_S: Final = 90.0  # managers and servers may just have been started
THINK_S: Final = 0.01
"""Each connection rests so long after each request: what is judged is what the cluster does to a
client, not how two processors share the load of five."""


@dataclass(slots=True)
class Place:
    """What is remembered of a volume between two runs: who may write now, and how often it changed
    hands before.
    """

    group: str
    attach: int = 1


@dataclass(slots=True)
class Volume:
    """One volume and its load."""

    name: str
    number: int
    folder: Path
    place: Place
    task: Task
    client: Client

    @property
    def target(self) -> Target:
        """Where its load goes."""
        return Target(self.task.uri, self.place.attach, self.task.generation)


class Volumes:
    """All of them. ``seed`` is that of their content: a kept folder keeps its own."""

    def __init__(self, lab: Lab, plant: Plant, connections: int) -> None:
        self._lab, self._plant, self._connections = lab, plant, connections
        self.folder = lab.folder / "journals"
        self.all: list[Volume] = []
        self._seed, self._places = self._remembered()
        lines = conf.tokens(lab).read_text().splitlines()
        token = next(line.split()[1] for line in lines if line.startswith("admin "))
        sockets = {group: str(conf.socket_path(lab, group)) for group in lab.block_groups}
        self._cluster = Cluster(",".join(conf.rest_urls(lab)), token, sockets)

    def open(self, count: int) -> None:
        """Make or find so many, attach them, start their loads, which rest."""
        groups = self._lab.block_groups
        for number in range(1, count + 1):
            name = f"v{number}"
            place = self._places.setdefault(name, Place(groups[(number - 1) % len(groups)]))
            self.all.append(self._open(name, number, place))
        self._remember()

    def close(self) -> None:
        """End the loads."""
        for each in self.all:
            each.client.end()

    def attached(self, name: str, group: str, size: int = SIZE) -> tuple[str, int]:
        """Make a volume and attach it; address and generation."""
        self._plant.rest.post("/v1/volumes", {"name": name, "size": size})
        return self._attach(name, group)

    def late(self, volume: Volume) -> Client:
        """One more load of a volume, with clients that stay when it moves."""
        return Client(self._task(volume.number, volume.folder, LATE + 1, volume.target, trimmed=0))

    def steal(self, volume: Volume) -> tuple[str, int]:
        """Give it to another daemon without the help of the one that has it.

        The group that had it, and the attachment that is fenced from now on.
        """
        old, attach = volume.place.group, volume.place.attach
        attachments.detach(self._cluster, volume.name, old, force=True)
        note_fence(volume.folder, attach)
        volume.place.group, volume.place.attach = other_of(self._lab, old), attach + 1
        self._remember()
        uri, generation = self._attach(volume.name, volume.place.group)
        volume.task = self._task(
            volume.number, volume.folder, 1, Target(uri, volume.place.attach, generation)
        )
        volume.client.attach(volume.target)
        return old, attach

    def forget_dead(self, volume: Volume, group: str) -> None:
        """Take the device away that a fence left at a daemon."""
        attachments.detach(self._cluster, volume.name, group, force=False)

    def _open(self, name: str, number: int, place: Place) -> Volume:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        uri, generation = self.attached(name, place.group)
        task = self._task(number, folder, 1, Target(uri, place.attach, generation))
        return Volume(name, number, folder, place, task, Client(task))

    def _attach(self, name: str, group: str) -> tuple[str, int]:
        def attached() -> tuple[str, int] | None:
            try:
                made = attachments.attach(self._cluster, name, group, "export", read_only=False)
            except NotFoundError:
                raise
            except DrystoneError:
                return None  # asked again: managers may just be electing
            return str(made["nbd_uri"]), int(made["generation"])

        found = wait_for(attached, f"{name} attached at {group}", ATTACH_S)
        assert found is not None
        return found

    def _task(
        self, number: int, folder: Path, first_client: int, target: Target, trimmed: int = 16
    ) -> Task:
        return Task(
            str(folder), target.uri, self._seed, number, first_client, self._connections,
            target.attach, target.generation, THINK_S, Layout(trimmed=trimmed),
        )  # fmt: skip

    def _remembered(self) -> tuple[int, dict[str, Place]]:
        try:
            found = json.loads((self.folder / "volumes.json").read_text())
        except FileNotFoundError:
            return self._lab.seed, {}
        return int(found["seed"]), {name: Place(**each) for name, each in found["places"].items()}

    def _remember(self) -> None:
        places = {name: asdict(place) for name, place in self._places.items()}
        text = json.dumps({"seed": self._seed, "places": places})
        atomic_write_text(self.folder / "volumes.json", text)
