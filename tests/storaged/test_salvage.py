"""A drive that lost its superblocks: its segments may name it, and nothing else makes it ours."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drystone_common.errors import DataError
from drystone_storaged.server.ledger import Entry, Ledger, Phase
from drystone_storaged.server.prepare import Preparer
from drystone_storaged.server.settings import DriveSettings
from tests.storaged.fake_native import LOST, FakeTools

CLUSTER = uuid.UUID(int=1)
DRIVE = str(uuid.UUID(int=7))
BLOCK = {
    "uuid": DRIVE, "cluster": str(CLUSTER), "nonce": 9, "incarnation": 1, "revision": 5,
    "size": 2 << 30, "feature_level": 1, "drive": 3,
}  # fmt: skip


def preparer(folder: Path) -> tuple[Preparer, Ledger]:
    membership: Any = SimpleNamespace(cluster=CLUSTER, incarnation=1, feature_level=1)
    ledger = Ledger(folder)
    return Preparer(FakeTools(), ledger, membership), ledger


def content_of(named: str) -> str:
    return f"{LOST}{named}\n{json.dumps(BLOCK)}"


def unchanged(drive: DriveSettings, named: str) -> bool:
    return Path(drive.path).read_text() == content_of(named)


def drive_that_lost_superblocks(folder: Path, named: str) -> DriveSettings:
    path = folder / "d.img"
    path.write_text(content_of(named))
    return DriveSettings(path=str(path), listen="127.0.0.1:1", init=True, create_bytes=1 << 30)


async def test_a_known_drive_whose_segments_name_it_goes_on_from_their_nonce(tmp_path):
    prepares, ledger = preparer(tmp_path)
    drive = drive_that_lost_superblocks(tmp_path, DRIVE)
    ledger.put(drive.key, Entry(DRIVE, Phase.KNOWN))
    block = await prepares.prepare(drive)
    assert (block.uuid, block.nonce) == (DRIVE, 9)


async def test_segments_of_another_drive_make_nothing_ours(tmp_path):
    prepares, ledger = preparer(tmp_path)
    other = str(uuid.UUID(int=8))
    drive = drive_that_lost_superblocks(tmp_path, other)
    ledger.put(drive.key, Entry(DRIVE, Phase.KNOWN))
    with pytest.raises(DataError) as caught:
        await prepares.prepare(drive)
    assert caught.value.code == "drive_damaged"
    assert unchanged(drive, other)


async def test_a_place_that_never_had_a_drive_of_ours_is_not_salvaged(tmp_path):
    prepares, _ = preparer(tmp_path)
    drive = drive_that_lost_superblocks(tmp_path, DRIVE)
    with pytest.raises(DataError) as caught:
        await prepares.prepare(drive)
    assert caught.value.code == "drive_damaged"
    assert unchanged(drive, DRIVE)
