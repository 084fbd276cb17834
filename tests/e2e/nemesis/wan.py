"""The proxy that delays, reorders and duplicates packets: a process, and how a run talks to it.

It holds one TUN device in every group's namespace. A direction is delayed by a route into the
sender's device; the packet leaves from the receiver's, with its addresses as they were, so
connections that stand go on. Without the proxy there is no device and no route: packets go the
direct way. Only the directions that are delayed pay for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.e2e.lib.shell import LabError, Started
from tests.e2e.lib.waits import wait_for
from tests.e2e.nemesis.delays import Delay, Queue, from_json, to_json
from tests.e2e.nemesis.netns import entered
from tests.e2e.nemesis.settings import MTU, ROOT, Lab, address

NAME: Final = "wan"  # in the folder of pids
DEVICE: Final = "tun0"
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000  # no header of its own before each packet
BATCH: Final = 64  # packets of one device before the others have their turn
ANSWER_S: Final = 5.0  # for a line over a Unix socket, on a machine that is busy
START_S: Final = 20.0
LINE_MAX: Final = 1 << 20  # delays of all pairs of a run are 10 KB
IPV4: Final = 4
HEADER: Final = 20


class Wan:
    """The proxy as the run sees it."""

    def __init__(self, lab: Lab, groups: Sequence[str], started: Started) -> None:
        self._lab = lab
        self._groups = groups
        self._started = started

    def start(self) -> None:
        """Start it and wait until it answers. Then its devices exist, and are down."""
        _socket(self._lab).parent.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "tests.e2e.nemesis.wan", str(_socket(self._lab)),
                str(self._lab.seed), *self._groups]  # fmt: skip
        log = self._lab.log / "wan.log"
        self._started.start(NAME, argv, log, cwd=ROOT)

        def answers() -> bool:
            if self._started.pid(NAME) is None:
                raise LabError(f"the proxy did not start: {log.read_text()[-1500:]}")
            with contextlib.suppress(OSError):
                self._ask({})
                return True
            return False

        wait_for(answers, "the proxy to answer", START_S)

    def set(self, delays: Mapping[tuple[str, str], Delay]) -> None:
        """Replace all delays."""
        self._told({"delays": to_json(delays)})

    def counts(self) -> dict[str, int]:
        """What happened to packets since its start: `delays.Counts` by name."""
        return {str(name): int(count) for name, count in self._told({})["counts"].items()}

    def _told(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._ask(question)
        except OSError as error:
            raise LabError(f"the proxy is gone, its log is {self._lab.log / 'wan.log'}") from error

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(ANSWER_S)
            line.connect(str(_socket(self._lab)))
            line.sendall(json.dumps(question).encode() + b"\n")
            with line.makefile("rb") as reader:
                answer: dict[str, Any] = json.loads(reader.readline(LINE_MAX) or "{}")
        if "counts" not in answer:
            raise LabError(f"the proxy refused: {answer.get('error', 'no answer')}")
        return answer


class Proxy:
    """The process itself."""

    def __init__(self, devices: Mapping[str, int], queue: Queue) -> None:
        self._devices = devices
        self._groups = {socket.inet_aton(address(group)): group for group in devices}
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        for group, device in devices.items():
            self._loop.add_reader(device, self._read, group, device)

    def _read(self, src: str, device: int) -> None:
        for _ in range(BATCH):
            try:
                packet = os.read(device, MTU + HEADER)
            except BlockingIOError:
                break
            dst = destination(packet, self._groups)
            if dst is None:
                self._queue.counts.stray += 1
            else:
                self._queue.take(self._loop.time(), (src, dst), packet)
        self._flush()

    def _flush(self) -> None:
        for group, packet in self._queue.due(self._loop.time()):
            try:
                os.write(self._devices[group], packet)
            except OSError:
                self._queue.counts.overflowed += 1  # the receiver's device is down or full
        if self._timer is not None:
            self._timer.cancel()
        at = self._queue.next_at
        self._timer = None if at is None else self._loop.call_at(at, self._flush)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question, one answer."""
        with contextlib.suppress(OSError):
            text = await asyncio.wait_for(reader.readline(), ANSWER_S)
            writer.write(json.dumps(self._answer(text)).encode() + b"\n")
            await asyncio.wait_for(writer.drain(), ANSWER_S)
        writer.close()

    def _answer(self, text: bytes) -> dict[str, Any]:
        try:
            question = json.loads(text)
            if "delays" in question:
                self._queue.set(from_json(question["delays"]))
        except (ValueError, TypeError, LabError) as error:
            return {"error": str(error)}
        return {"counts": self._queue.counts.as_dict()}


def destination(packet: bytes, groups: Mapping[bytes, str]) -> str | None:
    """The group that an IPv4 packet is for."""
    if len(packet) < HEADER or packet[0] >> 4 != IPV4:
        return None
    return groups.get(packet[16:20])


def open_device(group: str) -> int:
    """A TUN device in the group's namespace; it exists as long as its handle."""
    with entered(group):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        request = struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI)
        fcntl.ioctl(device, TUNSETIFF, request)
    return device


def _socket(lab: Lab) -> Path:
    return lab.shared / "wan.sock"


async def _main(path: Path, seed: int, groups: Sequence[str]) -> None:
    devices = {group: open_device(group) for group in groups}
    proxy = Proxy(devices, Queue(random.Random(seed)))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await asyncio.start_unix_server(proxy.answer, path, limit=LINE_MAX):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
