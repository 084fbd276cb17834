"""The tools that check content must themselves notice when it is wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bench.stats import spread
from tests.e2e.lib import diskprobe
from tests.e2e.lib.blocks import BlockSet
from tests.e2e.lib.content import BLOCK_BYTES, content
from tests.e2e.lib.diskprobe import DiskProbe
from tests.e2e.lib.files import FileSet
from tests.e2e.lib.nbd import Nbd, NbdRefusedError
from tests.e2e.lib.rot import flip
from tests.e2e.lib.ticker import Stalls, Ticker
from tests.e2e.lib.waits import NotSeenError, wait_for
from tests.e2e.lib.writer import Region, Writer, verify

SIZE = 16 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An NBD server on a file: its address and the file."""
    image, socket = tmp_path / "disk", tmp_path / "s"
    with image.open("wb") as file:
        file.truncate(SIZE)
    argv = ["nbdkit", "-f", "-U", str(socket), "file", str(image)]
    with subprocess.Popen(argv) as server:
        wait_for(socket.exists, "nbdkit listens", 30)
        yield f"nbd+unix:///?socket={socket}", image
        server.terminate()


def test_the_writer_knows_what_it_was_told_and_verify_reads_it_back(disk):
    region = Region(disk[0], first=3, slots=20, seed=1)
    writer = Writer(region, threads=2)
    writer.goes_on(100, 30)
    report = writer.stop()
    assert report.errors == 0
    assert verify(region, report) == 20


def test_verify_finds_a_lost_write(disk):
    region = Region(disk[0], first=0, slots=4, seed=1)
    writer = Writer(region)
    writer.goes_on(20, 30)
    report = writer.stop()
    older = content(region.seed, 2, report.acked[2] - 1)
    client = Nbd(region.where)
    client.write(2 * BLOCK_BYTES, older)
    client.close()
    with pytest.raises(ValueError, match="block 2 holds the older write"):
        verify(region, report)


def test_a_flipped_bit_in_the_file_is_found_by_the_block_set(disk):
    where, image = disk
    known = BlockSet(where, first=16, seed=9)
    known.add()
    assert known.verify() == known.bytes_known
    assert flip(image, [content(9, 7, 1)]) == 1
    with pytest.raises(ValueError, match="block 23 "):
        known.verify()


def test_flip_touches_nothing_when_the_content_is_not_there(disk):
    before = disk[1].read_bytes()
    assert flip(disk[1], [content(1, 1, 1)]) == 0
    assert disk[1].read_bytes() == before


def test_a_changed_file_is_found_by_the_file_set(tmp_path):
    known = FileSet(tmp_path)
    known.add()
    known.add()
    assert known.verify() == known.bytes_known
    with (tmp_path / "file-00001").open("r+b") as file:
        file.write(b"other")
    with pytest.raises(ValueError, match="file-00001 differs"):
        known.verify()


def test_the_nbd_client_tells_a_refused_request(disk):
    client = Nbd(disk[0])
    assert client.size == SIZE
    with pytest.raises(NbdRefusedError):
        client.read(SIZE, BLOCK_BYTES)
    client.close()


def test_only_the_part_of_a_stall_inside_a_gap_is_counted():
    stalls = Stalls(((1.0, 2.0), (5.0, 6.0)))
    assert stalls.within(1.5, 5.25) == pytest.approx(0.75)
    assert stalls.longest_s == pytest.approx(1.0)


def test_the_ticker_ends_when_it_is_told_to():
    assert Ticker().stop().longest_s >= 0


def test_the_probe_of_the_disk_ends_when_it_is_told_to(tmp_path):
    assert DiskProbe(tmp_path).stop().longest_s >= 0
    assert not list(tmp_path.iterdir())


def test_the_probe_notes_a_flush_that_stands(tmp_path, monkeypatch, capsys):
    told = iter([0, 0, 1])
    monkeypatch.setattr("select.select", lambda *_: [[1] * next(told)])
    times = iter([10.0, 10.1, 20.0, 20.3])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    diskprobe._main(tmp_path / "probe")
    assert json.loads(capsys.readouterr().out) == [[20.0, 20.3]]


def test_waiting_ends_with_the_name_of_what_did_not_come():
    with pytest.raises(NotSeenError, match="the moon"):
        wait_for(lambda: False, "the moon", deadline_s=0.1)


def test_a_spread_is_a_geometric_mean_with_its_extremes():
    found = spread([1.0, 4.0])
    assert found is not None
    assert (found.mean, found.least, found.greatest) == pytest.approx((2.0, 1.0, 4.0))
    assert spread([]) is None


def test_what_others_have_of_a_stall_is_cut_out_of_it():
    stalls = Stalls(((1.0, 4.0), (6.0, 7.0)))
    assert stalls.without(Stalls(((2.0, 3.0), (5.0, 8.0)))).intervals == ((1.0, 2.0), (3.0, 4.0))
    assert stalls.without(Stalls(())) == stalls
