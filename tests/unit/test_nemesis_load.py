"""The load of the nemesis against a server that keeps its word, and against one that does not."""

from __future__ import annotations

import dataclasses
import random
import socket
import threading

import pytest

from tests.e2e.lib.content import BLOCK_BYTES
from tests.e2e.lib.nbd import Nbd, NbdLostError, NbdRefusedError
from tests.e2e.lib.waits import wait_for
from tests.e2e.nemesis.base import note_fence, read_base
from tests.e2e.nemesis.check import check
from tests.e2e.nemesis.client import Client, ClientError
from tests.e2e.nemesis.collect import collect, compact
from tests.e2e.nemesis.crew import Crew, CrewError, volume_bytes
from tests.e2e.nemesis.history import ZERO, Verb, value_of
from tests.e2e.nemesis.journal import Journal, Kind, Record, records, segments
from tests.e2e.nemesis.mix import Layout, Target, Task, choose
from tests.e2e.nemesis.stamp import StampError, read_stamp, stamp
from tests.unit.nbd_server import EIO, READ, TRIM, WRITE, NbdServer

LAYOUT = Layout(hot=8, cold=24, trimmed=4)
DEADLINE_S = 30.0


@pytest.fixture
def journals(tmp_path):
    folder = tmp_path / "journals"
    folder.mkdir()
    return folder


@pytest.fixture
def task(tmp_path, journals):
    uri = f"nbd+unix:///v?socket={tmp_path / 'nbd'}"
    return Task(str(journals), uri, seed=7, volume=3, first_client=1, connections=3,
                think_s=0.0005, layout=LAYOUT)  # fmt: skip


@pytest.fixture
def server(tmp_path, task):
    with NbdServer(tmp_path / "nbd", volume_bytes(task)) as server:
        yield server


@pytest.fixture
def crew(server, task):
    crew = Crew(task)
    yield crew
    crew.end()


def goes_on(crew, name="acked", more=60):
    target = crew.counts()[name] + more
    wait_for(lambda: crew.counts()[name] >= target, f"{more} more {name}", DEADLINE_S, 0.005)


def judge(crew, journals):
    crew.sweep()
    crew.rotate()
    found = collect(journals)
    return found, check(found.history)


def kinds(journals):
    """What was asked for, and whether of more than one block."""
    return {
        (record.verb, record.blocks > 1)
        for each in segments(journals)
        for record in records(each.path)
    }


def test_a_load_on_a_server_that_keeps_its_word_is_clean_and_uses_every_kind_of_request(
    crew, journals
):
    every = {(verb, large) for verb in (Verb.READ, Verb.WRITE, Verb.TRIM)
             for large in (False, True)} | {(Verb.FLUSH, False)}  # fmt: skip
    crew.go()
    for _ in range(20):  # what is asked for is drawn: the rare kinds come sooner or later
        goes_on(crew, more=200)
        if kinds(journals) >= every:
            break
    found, verdict = judge(crew, journals)
    assert verdict.clean, verdict.words("v")
    assert verdict.blocks == LAYOUT.blocks(3)
    assert verdict.unknown == 0
    assert kinds(journals) >= every
    compact(found)
    crew.go()
    goes_on(crew)
    assert judge(crew, journals)[1].clean


def test_requests_that_a_broken_connection_leaves_open_are_not_sent_again(crew, server, journals):
    crew.go()
    goes_on(crew)
    server.hold.clear()
    wait_for(lambda: crew.counts()["busy"] == 3, "requests wait", DEADLINE_S)
    server.stop()
    wait_for(lambda: crew.counts()["lost"] >= 3, "they are lost", DEADLINE_S)
    server.start()
    goes_on(crew)
    _, verdict = judge(crew, journals)
    assert verdict.clean, verdict.words("v")


def test_refused_requests_are_of_unknown_outcome(crew, server, journals):
    server.errors = lambda kind, offset: EIO if kind == WRITE else 0
    crew.go()
    goes_on(crew, "error", 20)
    server.errors = lambda kind, offset: 0
    goes_on(crew)
    _, verdict = judge(crew, journals)
    assert verdict.clean, verdict.words("v")
    assert verdict.unknown >= 20


@pytest.mark.parametrize("kind", [WRITE, TRIM])
def test_a_server_that_loses_an_acknowledged_change_is_found_out(crew, server, journals, kind):
    lied = threading.Event()

    def lie(asked, offset):
        # From the first one on nothing is done any more, so that nothing covers it.
        if asked == kind and any(server.memory[offset : offset + BLOCK_BYTES]):
            lied.set()
        return lied.is_set()

    server.lie = lie
    crew.go()
    assert lied.wait(DEADLINE_S)
    _, verdict = judge(crew, journals)
    assert verdict.wrong > 0
    assert "volume v, block" in verdict.words("v")


def test_damaged_bytes_are_found_and_kept(crew, server, journals):
    crew.go()
    goes_on(crew)
    crew.rest()
    server.memory[2 * BLOCK_BYTES + 100] ^= 1
    _, verdict = judge(crew, journals)
    assert verdict.wrong == 1
    assert "bytes that nobody ever wrote" in verdict.words("v")
    assert len(list(journals.glob("damaged-*-block-2.bin"))) == 1


def test_an_older_state_of_the_whole_volume_is_found_out_by_the_next_run(server, task, journals):
    crew = Crew(task)
    crew.go()
    goes_on(crew)
    crew.rest()
    older = bytes(server.memory)
    crew.go()
    goes_on(crew)
    found, verdict = judge(crew, journals)
    assert verdict.clean
    compact(found)
    crew.end()
    server.memory[:] = older
    again = Crew(task)
    _, verdict = judge(again, journals)
    again.end()
    assert verdict.wrong > 0


def test_a_load_in_a_process_goes_on_with_its_journal_after_a_kill(server, task, journals):
    with Client(task) as client:
        client.go()
        client.goes_on(30, DEADLINE_S)
        client.kill()
    with Client(task) as client:
        client.go()
        client.goes_on(30, DEADLINE_S)
        assert client.checkpoint() == LAYOUT.blocks(3)
        found = collect(journals)
        verdict = check(found.history)
        assert verdict.clean, verdict.words("v")
        compact(found)
        client.go()
        client.rest()
    assert all(client.count > 0 for client in read_base(journals).clients.values())
    assert check(collect(journals).history).clean


def test_a_load_whose_process_is_gone_says_so(server, task):
    client = Client(task)
    client.kill()
    with pytest.raises(ClientError, match=r"not running|has ended"):
        client.rest()


def test_a_volume_that_cannot_be_read_is_an_error_with_a_deadline(crew, server):
    server.errors = lambda kind, offset: EIO if kind == READ else 0
    with pytest.raises(CrewError, match="could not be read"):
        crew.sweep(0.2)


def test_another_attachment_takes_over_and_what_the_fenced_one_does_late_is_counted(
    tmp_path, server, task, journals, crew
):
    crew.go()
    goes_on(crew)
    server.hold.clear()
    wait_for(lambda: crew.counts()["busy"] == 3, "requests wait", DEADLINE_S)
    with NbdServer(tmp_path / "other", len(server.memory)) as other:
        other.memory = server.memory  # the same volume, served elsewhere
        note_fence(journals, 1)
        crew.attach(Target(other.uri, 2, 2))
        goes_on(crew)
        _, verdict = judge(crew, journals)
        assert verdict.clean, verdict.words("v")
        assert collect(journals).history.fences.keys() == {1}
        _late_write(journals, server)
        crew.sweep()
        verdict = check(collect(journals).history)
        assert (verdict.wrong, verdict.fenced_late) == (0, 1), verdict.words("v")


def _late_write(journals, server):
    """Do a write that attachment 1 left open, now; make one up if it left none."""
    with Journal(journals, 9) as journal:
        value = value_of(9, 1)
        journal.note(Record(Kind.INVOKE, Verb.WRITE, 1, 0, value, 0.0, 0.0, 1, 1))
    server.memory[:BLOCK_BYTES] = stamp(7, 3, 0, value)


def test_a_server_that_takes_connections_and_says_nothing_holds_up_nobody(tmp_path, task, journals):
    with socket.socket(socket.AF_UNIX) as silent:  # as that of a frozen daemon
        silent.bind(str(tmp_path / "silent"))
        silent.listen(16)
        uri = f"nbd+unix:///v?socket={tmp_path / 'silent'}"
        crew = Crew(dataclasses.replace(task, uri=uri))
        crew.go()
        wait_for(lambda: crew.counts()["busy"] == 3, "connections wait", DEADLINE_S)
        crew.rest(give_up=True)
        crew.go()
        wait_for(lambda: crew.counts()["busy"] == 3, "connections wait", DEADLINE_S)
        with NbdServer(tmp_path / "nbd", volume_bytes(task)) as server:
            crew.attach(Target(server.uri, 2, 2))
            goes_on(crew)
            assert judge(crew, journals)[1].clean
            crew.end()


def test_requests_are_spread_as_the_layout_says_and_stay_inside():
    rng, layout = random.Random(1), Layout()
    wishes = [choose(rng, layout, 1) for _ in range(5000)]
    own = range(layout.blocks(1), layout.blocks(2))
    for wish in wishes:
        assert wish.block + wish.blocks <= layout.blocks(2)
        if wish.block >= layout.hot + layout.cold:
            assert wish.block in own
            assert wish.block + wish.blocks - 1 in own
        assert wish.verb != Verb.TRIM or wish.block in own
    assert sum(wish.blocks > 1 for wish in wishes) > 300


def test_a_block_is_known_by_its_bytes_and_every_other_bytes_are_refused():
    data = stamp(1, 2, 3, value_of(4, 5))
    assert read_stamp(1, 2, 3, data) == value_of(4, 5)
    assert read_stamp(1, 2, 3, bytes(BLOCK_BYTES)) == ZERO
    for place in (4, 20, 31, 32, 4095):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(StampError, match="head"):
            read_stamp(1, 2, 3, bytes(damaged))
    with pytest.raises(StampError, match="write 5 of client 4 to block 3 of volume 2"):
        read_stamp(1, 2, 4, data)


def test_without_resend_a_lost_request_ends_as_lost_and_the_next_one_connects_anew(server):
    nbd = Nbd(server.uri, resend=False, reconnect_s=5.0)
    assert nbd.ready()
    assert not nbd.ready()
    server.hold.clear()
    before = server.requests

    def give_up():
        wait_for(lambda: server.requests > before, "a request", DEADLINE_S)
        nbd.abandon()

    breaker = threading.Thread(target=give_up)
    breaker.start()
    with pytest.raises(NbdLostError):
        nbd.write(0, bytes(BLOCK_BYTES))
    breaker.join(DEADLINE_S)
    server.hold.set()
    with pytest.raises(NbdLostError, match="not connected"):
        nbd.flush()
    assert nbd.ready()
    nbd.flush()
    server.errors = lambda kind, offset: EIO
    with pytest.raises(NbdRefusedError):
        nbd.flush()
    nbd.close()


def test_with_resend_a_broken_connection_is_not_seen(server):
    nbd = Nbd(server.uri)
    data = stamp(1, 1, 0, value_of(1, 1))
    nbd.write(0, data)
    server.cut()
    assert nbd.read(0, BLOCK_BYTES) == data
    assert nbd.reconnects == 1
    nbd.close()
