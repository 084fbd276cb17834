"""Each fault of the network in turn, proven with datagrams between three namespaces."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tests.e2e.lib.shell import LabError, Steps
from tests.e2e.lib.stop import end_in_order
from tests.e2e.lib.waits import NotSeenError
from tests.e2e.nemesis.counts import Packets, sentence
from tests.e2e.nemesis.delays import Delay
from tests.e2e.nemesis.lifecycle import leftovers, running
from tests.e2e.nemesis.net import Net
from tests.e2e.nemesis.netns import entered
from tests.e2e.nemesis.settings import address, from_environment

GROUPS: Final = ("n1", "n2", "n3")
A, B, C = GROUPS
PORT: Final = 9000
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h; the module has no name for it
HEAD: Final = struct.Struct("!IId")  # burst, number, sent at
RECEIVE_BYTES: Final = 16 << 20  # the largest burst waits there while it is still being sent
ARRIVE_S: Final = 20.0
LOCK_WAIT_S: Final = 60.0  # another self-test ends within seconds
STREAM_BYTES: Final = 1 << 20
LOSS_PERMILLE: Final = 300
DELAY: Final = Delay(
    least_ms=10, most_ms=40, spike_permille=20, spike_ms=120, duplicate_permille=100
)


class Post:
    """A socket in each namespace; bursts of numbered datagrams between them."""

    def __init__(self, groups: Sequence[str]) -> None:
        self._burst = 0
        self._sockets = {}
        for group in groups:
            with entered(group):
                one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
            one.bind((address(group), PORT))
            self._sockets[group] = one

    def close(self) -> None:
        """The namespaces end with their last socket."""
        for one in self._sockets.values():
            one.close()

    def send(self, src: str, dst: str, count: int, size: int = HEAD.size) -> int:
        """A burst; gives its number."""
        self._burst += 1
        for number in range(count):
            head = HEAD.pack(self._burst, number, time.monotonic())
            self._sockets[src].sendto(head.ljust(size, b"."), (address(dst), PORT))
        return self._burst

    def receive(self, dst: str, burst: int, done: Callable[[int], bool]) -> list[tuple[int, float]]:
        """Numbers and seconds under way, in the order of arrival, until enough have come.

        ``done`` is told how many, second copies apart.
        """
        found: list[tuple[int, float]] = []
        end = time.monotonic() + ARRIVE_S
        while not done(len({number for number, _ in found})):
            if time.monotonic() > end:
                raise LabError(f"{len(found)} datagrams arrived at {dst}, and it is not all")
            while select.select([self._sockets[dst]], [], [], 0.05)[0]:
                data = self._sockets[dst].recv(65536)
                of, number, sent = HEAD.unpack_from(data)
                if of == burst:
                    found.append((number, time.monotonic() - sent))
        return found

    def all_arrive(self, src: str, dst: str, count: int = 50) -> None:
        """Each of a burst arrives, once."""
        arrived = self.receive(dst, self.send(src, dst, count), lambda n: n >= count)
        _must(sorted(n for n, _ in arrived) == list(range(count)), f"{src} to {dst}: {arrived}")


def _must(truth: bool, what: str) -> None:
    if not truth:
        raise LabError(f"self-test: {what}")


def plain(net: Net, post: Post) -> str:
    """Without faults."""
    for src, dst in net.all_paths():
        post.all_arrive(src, dst)
    return "every datagram arrives in all six directions"


def one_way_cut(net: Net, post: Post) -> str:
    """One direction is cut, and no other."""
    before = net.counters()
    net.cut((A, B))
    burst = post.send(A, B, 100)
    for src, dst in set(net.all_paths()) - {(A, B)}:
        post.all_arrive(src, dst)
    arrived = post.receive(B, burst, lambda _: _on(net, "cut") - before.on("cut", A, B) == 100)
    _must(not arrived, f"{len(arrived)} datagrams came through a cut")
    net.heal()
    post.all_arrive(A, B)
    return f"{A} to {B} cut: 0 of 100 arrive and 100 are counted; the way back and others are whole"


def isolated(net: Net, post: Post) -> str:
    """Both ways to everybody."""
    before = net.counters()
    net.isolate(A)
    burst, back = post.send(A, B, 20), post.send(C, A, 20)
    post.all_arrive(B, C)
    heard = post.receive(B, burst, lambda _: _did(net, before, "cut") >= 40)
    heard += post.receive(A, back, lambda _: _did(net, before, "cut") >= 40)
    _must(not heard, f"{len(heard)} datagrams reached or left what is isolated")
    net.heal()
    post.all_arrive(C, A)
    return f"{A} isolated: nothing arrives or leaves, {B} and {C} go on"


def loss(net: Net, post: Post) -> str:
    """A share is lost, and exactly those are counted."""
    net.loss(LOSS_PERMILLE, [(A, B)])
    count = 1000
    burst = post.send(A, B, count)
    arrived = post.receive(B, burst, lambda n: n + _on(net, "lost") >= count)
    lost = _on(net, "lost")
    net.heal()
    _must(0 < lost < count and lost + len(arrived) == count, f"{lost} lost, {len(arrived)} arrived")
    return f"loss of {LOSS_PERMILLE} ‰: {lost} of {count} lost and counted, {len(arrived)} arrived"


def delay(net: Net, post: Post) -> str:
    """Late, in another order, some twice; a connection that stands goes on, and carries much."""
    with _connection() as (near, far):
        _talk(near, far)
        net.delay(DELAY, [(A, B)])
        before, count = net.counters(), 400
        burst = post.send(A, B, count)
        arrived = post.receive(B, burst, lambda n: n >= count)
        did = net.counters().since(before)
        _talk(near, far)
        _stream(near, far)
        net.heal()
        _talk(near, far)
    numbers = [number for number, _ in arrived]
    least_ms = min(late for _, late in arrived) * 1000
    _must(set(numbers) == set(range(count)), f"{len(set(numbers))} of {count} arrived")
    _must(numbers != sorted(numbers), "they arrived in order")
    _must(least_ms >= DELAY.least_ms, f"one arrived after {least_ms:.1f} ms")
    for kind in ("delayed", "reordered", "duplicated"):
        _must(did[kind] > 0, f"0 {kind}: {did}")
    _must(did["delayed"] >= count and not did["overflowed"], f"{did} of {count}")
    return (
        f"delay of {DELAY.least_ms:.0f}-{DELAY.most_ms:.0f} ms: {did['delayed']} delayed (least "
        f"{least_ms:.1f} ms), {did['reordered']} reordered, {did['duplicated']} twice; "
        "a TCP connection lived through it"
    )


def rate(net: Net, post: Post) -> str:
    """A limit holds packets back."""
    net.rate(A, 20)
    before, count = net.counters(), 300
    began = time.monotonic()
    burst = post.send(A, B, count, size=8000)
    arrived = post.receive(B, burst, lambda n: n + _did(net, before, "discarded") >= count)
    took_s = time.monotonic() - began
    did = net.counters().since(before)
    net.heal()
    post.all_arrive(A, B)
    _must(did["shaped"] > 0, f"nothing waited: {did}")
    _must(net.counters().totals()["shaped"] >= did["shaped"], "the count went with the limit")
    return (
        f"20 Mbit/s: {len(arrived)} of {count} datagrams of 8,000 bytes arrived in {took_s:.2f} s, "
        f"{did['discarded']} discarded, {did['shaped']} waits"
    )


CHECKS: Final = (plain, one_way_cut, isolated, loss, delay, rate)


def _on(net: Net, kind: str) -> int:
    return net.counters().on(kind, A, B)


def _did(net: Net, before: Packets, kind: str) -> int:
    return net.counters().since(before)[kind]


@contextlib.contextmanager
def _connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with entered(B):
        listener = socket.create_server((address(B), PORT))
    with listener:
        with entered(A):
            near = socket.create_connection((address(B), PORT), timeout=ARRIVE_S)
        far, _ = listener.accept()
    far.settimeout(ARRIVE_S)
    with near, far:
        yield near, far


def _talk(near: socket.socket, far: socket.socket) -> None:
    for number in range(5):
        near.sendall(bytes([number]))
        _must(far.recv(1) == bytes([number]), "another byte came")
        far.sendall(b"!")
        _must(near.recv(1) == b"!", "no answer came")


def _stream(near: socket.socket, far: socket.socket) -> None:
    """More than a packet: sizes, checksums and segments are as they should be."""
    data = random.Random(1).randbytes(STREAM_BYTES)
    sender = threading.Thread(target=near.sendall, args=(data,))
    sender.start()
    seen = hashlib.sha256()
    left = len(data)
    while left:
        part = far.recv(left)
        _must(bool(part), "the connection broke")
        seen.update(part)
        left -= len(part)
    sender.join()
    _must(seen.digest() == hashlib.sha256(data).digest(), "other bytes came")


def _run(steps: Steps) -> None:
    lab = from_environment()
    with running(lab, GROUPS, wait_s=LOCK_WAIT_S) as run:
        net = run.net
        steps.say(f"{len(GROUPS)} namespaces, and the proxy")
        post = Post(GROUPS)
        try:
            for check in CHECKS:
                print(f"{check.__name__}: {check(net, post)}", flush=True)
        finally:
            post.close()
        print(sentence(net.counters().totals()))
        _must(not net.idle_kinds(), f"did nothing: {net.idle_kinds()}")
    left = leftovers(lab.folder)
    _must(not left, f"left behind: {left}")
    steps.say("taken away")
    print(f"{len(CHECKS)} passed, 0 failed")


def _hold(steps: Steps) -> None:
    with running(from_environment(), GROUPS, wait_s=LOCK_WAIT_S):
        steps.say(f"up: {', '.join(GROUPS)}; Enter takes it away")
        print("up", flush=True)
        sys.stdin.readline()


def main() -> int:
    """`python -m tests.e2e.nemesis.net`."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.nemesis.net", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--self-test", action="store_true", help="prove each fault")
    what.add_argument("--hold", action="store_true", help="only make the network, to look at it")
    arguments = parser.parse_args()
    end_in_order()
    try:
        (_run if arguments.self_test else _hold)(Steps())
    except (LabError, NotSeenError) as error:
        print(f"error: {error}\n0 passed, 1 failed", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
