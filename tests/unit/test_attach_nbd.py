"""The watcher of kernel NBD devices against a driver that is made up."""

from __future__ import annotations

import asyncio
import socket

import pytest

from drystone_common.errors import UnavailableError
from drystone_storaged.attach import nbd
from drystone_storaged.attach.interface import Endpoint
from drystone_storaged.attach.nbd import NbdAttacher
from drystone_storaged.attach.nbd_netlink import RECONFIGURE


class Driver:
    """Gives out events that the test puts in, and remembers commands."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[list[int] | OSError] = asyncio.Queue()
        self.commands: list[tuple[int, dict[str, object]]] = []
        self.refuses: set[object] = set()

    async def open(self) -> None:
        return None

    async def next_dead(self) -> list[int]:
        event = await self.events.get()
        if isinstance(event, OSError):
            raise event
        return event

    async def run(self, command: int, **attributes: object) -> int | None:
        if attributes["index"] in self.refuses:
            raise UnavailableError("no")
        self.commands.append((command, attributes))
        return None

    def close(self) -> None:
        return None


class Watched(NbdAttacher):
    """Records reconnections; each waits until the test lets it go on."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)  # type: ignore[arg-type] # as narrow as the watcher needs it
        self.tried: asyncio.Queue[int] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.failures = 0

    async def _reconfigure(self, index: int) -> None:
        self.tried.put_nowait(index)
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise UnavailableError("the daemon is away")


@pytest.fixture
async def watched(tmp_path, monkeypatch):
    monkeypatch.setattr(nbd, "RETRY_S", 0.0)
    monkeypatch.setattr(nbd, "PARTING_S", 0.0)
    attacher = Watched(Driver())
    attacher._endpoints[3] = ("00000000000000ab", Endpoint(tmp_path / "s", "e"))
    await attacher.start()
    yield attacher
    await attacher.aclose()


async def tried(attacher: Watched) -> int:
    async with asyncio.timeout(10):
        return await attacher.tried.get()


async def settled(attacher: Watched) -> None:
    async with asyncio.timeout(10):
        await asyncio.gather(*attacher._reconnects.values())


async def test_a_dead_connection_is_replaced(watched):
    watched.gate.set()
    watched._control.events.put_nowait([3])
    assert await tried(watched) == 3


async def test_a_device_of_somebody_else_is_left_alone(watched):
    watched.gate.set()
    watched._control.events.put_nowait([7, 3])
    assert await tried(watched) == 3
    await settled(watched)
    assert watched.tried.empty()


async def test_a_daemon_that_is_away_is_tried_until_it_is_back(watched):
    watched.gate.set()
    watched.failures = 3
    watched._control.events.put_nowait([3])
    for _ in range(4):
        assert await tried(watched) == 3
    await settled(watched)


async def test_a_connection_that_dies_while_it_is_made_is_replaced_again(watched):
    watched._control.events.put_nowait([3])
    assert await tried(watched) == 3
    watched._link_died(3)
    watched.gate.set()
    assert await tried(watched) == 3
    await settled(watched)
    assert watched.tried.empty()


async def test_lost_events_count_as_the_death_of_every_connection(watched):
    watched.gate.set()
    watched._control.events.put_nowait(OSError(105, "no buffer space"))
    assert await tried(watched) == 3


async def test_at_an_orderly_end_the_kernel_is_told_to_send_again_soon(watched):
    await watched.aclose()
    told = [
        (command, given["index"], given["timeout"]) for command, given in watched._control.commands
    ]
    assert told == [(RECONFIGURE, 3, nbd.PARTING_TIMEOUT_S)]


async def test_a_new_connection_sets_the_timeout_back(tmp_path, monkeypatch):
    async def dial(*_: object) -> tuple[socket.socket, int, int]:
        return socket.socket(socket.AF_UNIX), 0, 0

    monkeypatch.setattr(nbd, "dial", dial)
    driver = Driver()
    attacher = NbdAttacher(driver)  # type: ignore[arg-type] # as narrow as it is needed here
    attacher._endpoints[3] = ("00000000000000ab", Endpoint(tmp_path / "s", "e"))
    await attacher._reconfigure(3)
    ((command, given),) = driver.commands
    assert (command, given["timeout"]) == (RECONFIGURE, nbd.TIMEOUT_S)


async def test_a_device_that_is_gone_at_the_end_keeps_no_other_from_being_told(watched):
    watched._endpoints[4] = watched._endpoints[3]
    watched._control.refuses = {3}
    await watched.aclose()
    assert [given["index"] for _, given in watched._control.commands] == [4]


async def test_no_connection_is_brought_while_the_engine_holds_too_much(watched, monkeypatch):
    monkeypatch.setattr(nbd, "ROOM_POLL_S", 0.0)
    answers = [nbd.IN_FLIGHT_MAX + 1, nbd.IN_FLIGHT_MAX + 1, nbd.IN_FLIGHT_MAX]

    async def in_flight(volume_id: str) -> int:
        assert volume_id == "00000000000000ab"
        assert watched.tried.empty()
        return answers.pop(0)

    watched._in_flight = in_flight
    watched.gate.set()
    watched._control.events.put_nowait([3])
    assert await tried(watched) == 3
    assert answers == []
