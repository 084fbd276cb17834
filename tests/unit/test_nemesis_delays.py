"""What the proxy does to packets: each leaves once, late, and is counted."""

from __future__ import annotations

import asyncio
import json
import random
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.lib.shell import LabError, Started
from tests.e2e.nemesis.delays import Delay, Queue, from_json, to_json
from tests.e2e.nemesis.settings import Lab, address
from tests.e2e.nemesis.wan import Proxy, Wan, destination

PATH = ("n1", "n2")
SOME = Delay(least_ms=1, most_ms=20, spike_permille=100, spike_ms=200)


def queue(delay: Delay | None, seed: int = 1, room: int = 4096) -> Queue:
    made = Queue(random.Random(seed), room)
    made.set({} if delay is None else {PATH: delay})
    return made


def numbered(made: Queue, count: int, gap_s: float = 0.001) -> list[int]:
    """Numbers of packets in the order in which they left."""
    for number in range(count):
        made.take(number * gap_s, PATH, number.to_bytes(4, "big"))
    return [int.from_bytes(packet, "big") for _, packet in made.due(1000.0)]


@given(seed=st.integers(0, 1000), count=st.integers(1, 60), least=st.floats(0, 50))
def test_every_packet_leaves_once_and_never_before_its_least_delay(seed, count, least):
    made = queue(Delay(least_ms=least, most_ms=60, spike_permille=0), seed)
    for number in range(count):
        made.take(number * 0.001, PATH, bytes([number]))
    left = []
    while made.next_at is not None:
        now = made.next_at
        left += [(packet[0], now) for _, packet in made.due(now)]
    assert sorted(number for number, _ in left) == list(range(count))
    assert all(now >= number * 0.001 + least / 1000 for number, now in left)
    assert made.counts.delayed == count


@given(seed=st.integers(0, 1000), count=st.integers(2, 60))
def test_those_that_were_overtaken_are_counted(seed, count):
    made = queue(SOME, seed)
    left = numbered(made, count)
    overtaken = sum(any(other > one for other in left[:at]) for at, one in enumerate(left))
    assert made.counts.reordered == overtaken


@given(seed=st.integers(0, 1000))
def test_a_long_line_delays_and_overtakes_nothing(seed):
    made = queue(Delay(least_ms=1, most_ms=50, in_order=True), seed)
    assert numbered(made, 50) == list(range(50))
    assert (made.counts.delayed, made.counts.reordered) == (50, 0)


def test_the_same_seed_gives_the_same_order_and_another_gives_another():
    first, again, other = (numbered(queue(SOME, seed), 50) for seed in (7, 7, 8))
    assert first == again != other


def test_second_copies_leave_too_and_are_no_delayed_packets():
    made = queue(Delay(duplicate_permille=1000))
    left = numbered(made, 20)
    assert sorted(left) == sorted([*range(20), *range(20)])
    assert (made.counts.delayed, made.counts.duplicated) == (20, 20)


def test_a_path_without_a_delay_lets_packets_through_at_once_and_counts_none():
    made = queue(None)
    made.take(5.0, PATH, b"x")
    assert list(made.due(5.0)) == [("n2", b"x")]
    assert made.counts.as_dict() == dict.fromkeys(made.counts.as_dict(), 0)


def test_paths_are_delayed_apart():
    made = queue(SOME)
    made.take(0.0, PATH, b"late")
    made.take(0.0, ("n2", "n1"), b"at once")
    assert list(made.due(0.0)) == [("n1", b"at once")]


def test_what_waits_keeps_its_time_when_delays_end():
    made = queue(Delay(least_ms=100, most_ms=100, spike_permille=0))
    made.take(0.0, PATH, b"x")
    made.set({})
    assert list(made.due(0.09)) == []
    assert list(made.due(0.11)) == [("n2", b"x")]


def test_a_full_queue_drops_and_counts():
    made = queue(SOME, room=10)
    assert len(numbered(made, 30)) == 10
    assert made.counts.overflowed == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"least_ms": 30, "most_ms": 20}, {"least_ms": -1}, {"most_ms": 20_000},
        {"spike_ms": -1}, {"spike_permille": 1001}, {"duplicate_permille": -1},
    ],
)  # fmt: skip
def test_an_impossible_delay_is_refused(wrong):
    with pytest.raises(LabError):
        Delay(**wrong)


def test_delays_come_through_the_socket_as_they_were():
    delays = {PATH: SOME, ("n2", "n1"): Delay(in_order=True)}
    assert from_json(json.loads(json.dumps(to_json(delays)))) == delays


@pytest.mark.parametrize("rows", [None, 5, [1], [["n1", "n2"]], [["n1", "n2", {"most": 1}]]])
def test_other_things_that_come_through_the_socket_are_refused(rows):
    with pytest.raises(LabError):
        from_json(rows)


def test_a_run_whose_proxy_is_gone_says_so_and_counts_nothing(tmp_path):
    lab = Lab(tmp_path)
    with pytest.raises(LabError, match=r"gone.*wan\.log"):
        Wan(lab, lab.groups, Started(lab.pids)).counts()


def packet(dst: str, text: bytes = b"") -> bytes:
    return bytes([0x45]) + bytes(15) + socket.inet_aton(address(dst)) + text


@given(st.binary(max_size=60))
def test_a_packet_of_any_bytes_goes_to_a_group_or_nowhere(data):
    groups = {socket.inet_aton(address("n1")): "n1"}
    assert destination(data, groups) in ("n1", None)
    assert destination(packet("n1", data), groups) == "n1"


async def test_the_proxy_passes_packets_on_and_drops_those_for_nobody():
    ends = {group: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for group in ("n1", "n2")}
    for pair in ends.values():
        for end in pair:
            end.setblocking(False)
    made = queue(Delay(least_ms=1, most_ms=2, spike_permille=0))
    proxy = Proxy({group: inner.fileno() for group, (_, inner) in ends.items()}, made)
    loop = asyncio.get_running_loop()
    try:
        ends["n1"][0].send(packet("n3"))
        ends["n1"][0].send(packet("n2", b"hello"))
        async with asyncio.timeout(60):
            assert await loop.sock_recv(ends["n2"][0], 100) == packet("n2", b"hello")
        assert (made.counts.stray, made.counts.delayed) == (1, 1)
        assert proxy._answer(b'{"delays": []}') == {"counts": made.counts.as_dict()}
        for garbage in (b"", b"\xff", b"5", b'{"delays": 5}'):
            assert set(proxy._answer(garbage)) == {"error"}
    finally:
        for pair in ends.values():
            loop.remove_reader(pair[1].fileno())
            for end in pair:
                end.close()
