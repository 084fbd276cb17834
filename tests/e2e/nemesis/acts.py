"""What can be done to processes and network, as data, and how it is done.

An act that undoes is always safe: what runs is not started again, what is whole is healed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tests.e2e.nemesis.delays import Delay, Path


@dataclass(frozen=True, slots=True)
class Signal:
    """To each of these processes."""

    names: tuple[str, ...]
    number: signal.Signals


@dataclass(frozen=True, slots=True)
class Start:
    """Each of these that does not run, in this order."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disk:
    """The drive of a group does what ``order`` says; None = its best again."""

    group: str
    order: Mapping[str, int | str | bool] | None


@dataclass(frozen=True, slots=True)
class CutOff:
    """These directions."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Isolate:
    """A group, both ways."""

    group: str


@dataclass(frozen=True, slots=True)
class Lose:
    """A share of packets, everywhere; with a port only datagrams to it."""

    permille: int
    udp_port: int | None = None


@dataclass(frozen=True, slots=True)
class Slow:
    """Packets everywhere."""

    delay: Delay


@dataclass(frozen=True, slots=True)
class Limit:
    """What a group sends."""

    group: str
    mbit: int


@dataclass(frozen=True, slots=True)
class Heal:
    """The whole network."""


Act = Signal | Start | Disk | CutOff | Isolate | Lose | Slow | Limit | Heal


class Network(Protocol):
    """What `net.Net` can."""

    def cut(self, *cuts: Path) -> None: ...
    def isolate(self, group: str) -> None: ...
    def loss(self, permille: int, paths: Iterable[Path], udp_port: int | None = None) -> None: ...
    def delay(self, delay: Delay, paths: Iterable[Path]) -> None: ...
    def rate(self, group: str, mbit: int) -> None: ...
    def heal(self) -> None: ...
    def all_paths(self) -> list[Path]: ...


class Processes(Protocol):
    """What the plant can."""

    def signal(self, name: str, number: signal.Signals) -> object: ...
    def wait_gone(self, name: str) -> object: ...
    def start(self, name: str) -> object: ...
    def runs(self, name: str) -> bool: ...
    def order_drive(self, group: str, order: Mapping[str, int | str | bool] | None) -> object: ...


def perform(acts: Iterable[Act], net: Network, plant: Processes) -> None:
    """Do it, in order."""
    for act in acts:
        if isinstance(act, Disk):
            plant.order_drive(act.group, act.order)
        elif isinstance(act, (Signal, Start)):
            _to_processes(act, plant)
        else:
            _to_network(act, net)


def _to_processes(act: Signal | Start, plant: Processes) -> None:
    if isinstance(act, Start):
        for name in act.names:
            if not plant.runs(name):
                plant.start(name)
        return
    for name in act.names:
        plant.signal(name, act.number)
    if act.number is signal.SIGKILL:
        # After all have it: they die at once. One that is started next must not seem to run.
        for name in act.names:
            plant.wait_gone(name)


def _to_network(act: CutOff | Isolate | Lose | Slow | Limit | Heal, net: Network) -> None:
    match act:
        case CutOff(paths):
            net.cut(*paths)
        case Isolate(group):
            net.isolate(group)
        case Lose(permille, udp_port):
            net.loss(permille, net.all_paths(), udp_port)
        case Slow(delay):
            net.delay(delay, net.all_paths())
        case Limit(group, mbit):
            net.rate(group, mbit)
        case Heal():
            net.heal()
