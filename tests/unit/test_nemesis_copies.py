"""A copy that differs from the others, is damaged, or forgot what a client was told, is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.lib.sparse import copy_sparse
from tests.e2e.nemesis.base import Base, Settled
from tests.e2e.nemesis.copies import Compared, Image, against_journal, differences, read_lines
from tests.e2e.nemesis.history import NEVER, Op, Verb

PG = (1, 5)
MEMBERS = {PG: [1, 2], (1, 6): [1, 2]}
WELL = {"rotten": 0, "unproven": 0, "unread": 0, "bad": 0, "suspect": None}


def row(block: int, kind: str, digest: str) -> str:
    at = f"{PG[0]:03x} {PG[1]:06x} {3:016x} {block // 1024:016x} {block % 1024:03x}"
    return f"{at} {9:016x} {kind} 1.{block} 00 {digest} ok\n"


def image(folder: Path, drive: int, rows: list[str], **more: object) -> Image:
    """As the engine tells it: holes are neither counted nor in the digest."""
    lines = folder / f"{drive}.blocks"
    lines.write_text("".join(rows))
    live = [text for text in rows if " hole " not in text]
    pgs = [{"pool": PG[0], "pg": PG[1], "blocks": len(live), "digest": "".join(live)}]
    return Image(drive, {**WELL, "pgs": pgs if rows else [], **more}, lines)


@pytest.fixture
def found(tmp_path):
    def look(first: list[str], second: list[str], **more: object) -> Compared:
        images = {1: image(tmp_path, 1, first), 2: image(tmp_path, 2, second, **more)}
        return differences(images, MEMBERS)

    return look


def test_equal_copies_are_counted_and_nothing_is_said(found):
    rows = [row(1, "data", "aa"), row(1500, "data", "bb")]
    compared = found(rows, rows)
    assert (compared.blocks, compared.problems) == (4, [])


def test_a_hole_is_what_is_not_there(found):
    rows = [row(1, "data", "aa")]
    assert found([*rows, row(2, "hole", "-")], rows).problems == []
    assert found([], [row(2, "hole", "-")]).problems == []


@pytest.mark.parametrize("second", [[row(1, "data", "ab")], [], [row(2, "data", "aa")]])
def test_a_block_that_is_not_the_same_on_all_copies_is_named(found, second):
    compared = found([row(1, "data", "aa")], second)
    assert compared.problems[0] == "copies of pool 1 pg 5 differ"
    assert any("only on drive 1" in said and "block 1 data" in said for said in compared.problems)


@pytest.mark.parametrize("more", [{"rotten": 1}, {"unread": 2}, {"suspect": "a gap"}])
def test_a_damaged_copy_is_a_failure_though_its_digest_is_right(found, more):
    rows = [row(1, "data", "aa")]
    (problem,) = found(rows, rows, **more).problems
    assert "drive 2 is damaged" in problem


def test_a_drive_that_is_not_in_sync_is_not_compared(tmp_path):
    images = {1: image(tmp_path, 1, [row(1, "data", "aa")]), 2: image(tmp_path, 2, [])}
    assert differences(images, {PG: [1]}).problems == []


def held(tmp_path: Path, rows: list[str], blocks: dict[int, Settled]) -> list[str]:
    compared = Compared()
    lines = list(read_lines(image(tmp_path, 1, rows).lines))
    against_journal(compared, "v", Base(1, blocks), lines, lambda block, value: f"{block}/{value}")
    assert compared.settled == len({*blocks, *(line.block for line in lines)})
    return compared.problems


def test_what_clients_were_told_is_what_copies_hold(tmp_path):
    settled = {1500: Settled(7, 1.0), 2: Settled(0, 1.0), 3: Settled(0, 1.0)}
    rows = [row(2, "zero", "-"), row(1500, "data", "1500/7")]
    assert held(tmp_path, rows, settled) == []


@pytest.mark.parametrize(
    ("rows", "settled"),
    [
        ([row(1, "data", "1/6")], {1: Settled(7, 1.0)}),
        ([], {1: Settled(7, 1.0)}),
        ([row(1, "hole", "-")], {1: Settled(7, 1.0)}),
        ([row(1, "data", "1/6")], {1: Settled(0, 1.0)}),
        ([row(1, "data", "1/6")], {}),
    ],
)
def test_a_forgotten_or_foreign_value_is_named(tmp_path, rows, settled):
    (problem,) = held(tmp_path, rows, settled)
    assert problem.startswith("volume v block 1: copies hold")


def test_a_change_of_unknown_outcome_may_have_come_since(tmp_path):
    pending = (Op(Verb.WRITE, 0.5, NEVER, 8, 1, 1, 1),)
    assert held(tmp_path, [row(1, "data", "1/8")], {1: Settled(7, 1.0, pending)}) == []
    assert held(tmp_path, [row(1, "data", "1/9")], {1: Settled(7, 1.0, pending)}) != []


def test_a_sparse_copy_has_the_bytes_and_the_holes(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        file.write(b"x" * 5000)
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"y" * 9000)
    copied = copy_sparse(source, target)
    assert 14000 <= copied < 1 << 20
    assert target.stat().st_blocks * 512 < 1 << 20
    assert target.read_bytes() == source.read_bytes()
