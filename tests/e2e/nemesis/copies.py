"""After a lap every copy of every block is compared: with the other copies, and with the journals.

All processes are stopped at one moment and the drives' files are copied as they are then; the
copies are looked at by the engine itself, which replays them in memory and checks every checksum.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import drystone_native
from tests.e2e.lib.sparse import copy_sparse
from tests.e2e.nemesis import acts, conf
from tests.e2e.nemesis.base import Base, read_base
from tests.e2e.nemesis.history import ZERO
from tests.e2e.nemesis.settings import processes
from tests.e2e.nemesis.stamp import stamp
from tests.e2e.nemesis.world import World

CHUNK_BLOCKS: Final = 1024
STABLE_S: Final = 1.0  # until the last write of everybody is known to be on all copies
WORSE: Final = ("rotten", "unproven", "unread", "bad")
TOLD_MAX: Final = 10  # differences that a person reads; the images are kept with the rest

Pg = tuple[int, int]


class Line(NamedTuple):
    """One block of one copy, as `drive_blocks` writes it."""

    pg: Pg
    layer: int
    block: int
    volume: str
    kind: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Image:
    """One drive as it was: its number, what is on it, and where each block is told."""

    drive: int
    summary: Mapping[str, Any]
    lines: Path

    def pgs(self) -> dict[Pg, tuple[int, str]]:
        """Blocks and digest by placement group."""
        return {(p["pool"], p["pg"]): (p["blocks"], p["digest"]) for p in self.summary["pgs"]}


@dataclass(slots=True)
class Compared:
    """What a comparison found; ``blocks``: of all copies together."""

    blocks: int = 0
    settled: int = 0
    problems: list[str] = field(default_factory=list)


def compare(world: World) -> Compared:
    """Compare all copies; loads must rest, everything must be in sync and judged."""
    folder = world.lab.folder / "images"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    world.plant.wait_in_sync()
    world.lasts(STABLE_S)
    members = in_sync_members(world.plant.asked("/v1/map")["pgs"])
    drives = {each["node"]: int(each["id"]) for each in world.plant.asked("/v1/status")["drives"]}
    images = {group: folder / f"{group}.img" for group in world.lab.server_groups}
    _copied(world, images)
    with ThreadPoolExecutor(len(images)) as pool:
        looks = [pool.submit(_look, drives[group], path) for group, path in images.items()]
        found = {look.result().drive: look.result() for look in looks}
    compared = differences(found, members)
    for each in world.volumes.all:
        wanted = str(world.plant.asked(f"/v1/volumes/{each.name}")["id"])
        lines = list(_of_volume(found, members, wanted))
        seed = each.task.seed
        against_journal(
            compared, each.name, read_base(each.folder), lines,
            lambda block, value, number=each.number, seed=seed: sha256(  # type: ignore[misc]
                stamp(seed, number, block, value)
            ).hexdigest(),
        )  # fmt: skip
    if not compared.problems:
        shutil.rmtree(folder)
    return compared


def _copied(world: World, images: Mapping[str, Path]) -> None:
    """Stop everything, copy, go on: for all of them no time has passed."""
    names = tuple(processes(world.lab))
    acts.perform([acts.Signal(names, signal.SIGSTOP)], world.net, world.plant)
    try:
        for group, path in images.items():
            copy_sparse(conf.drive(world.lab, group), path)
    finally:
        acts.perform([acts.Signal(names, signal.SIGCONT)], world.net, world.plant)


def _look(drive: int, path: Path) -> Image:
    lines = path.with_suffix(".blocks")
    return Image(drive, json.loads(drystone_native.drive_blocks(str(path), str(lines))), lines)


def in_sync_members(records: Sequence[Mapping[str, Any]]) -> dict[Pg, list[int]]:
    """Drives in sync by placement group, from the map."""
    return {(each["pool"], each["pg"]): list(each["insync"]) for each in records}


def differences(images: Mapping[int, Image], members: Mapping[Pg, Sequence[int]]) -> Compared:
    """What is damaged on one copy, and where copies in sync differ."""
    compared = Compared()
    for drive, image in images.items():
        worse = {name: image.summary[name] for name in WORSE if image.summary[name]}
        if worse or image.summary["suspect"] is not None:
            told = f"{worse}, {image.summary['suspect']}"
            compared.problems.append(f"the copy on drive {drive} is damaged: {told}")
    tables = {drive: image.pgs() for drive, image in images.items()}
    for pg, drives in members.items():
        seen = {drive: tables[drive].get(pg) for drive in drives}
        compared.blocks += sum(each[0] for each in seen.values() if each)
        # A placement group without a block is not told; no digest stands for that.
        if len({each if each and each[0] else None for each in seen.values()}) > 1:
            compared.problems += _told(pg, {drive: images[drive] for drive in drives})
    return compared


def _told(pg: Pg, images: Mapping[int, Image]) -> list[str]:
    """Name blocks of a placement group that are not the same on all of these drives."""
    contents = {
        drive: {line for line in read_lines(image.lines) if line.pg == pg and line.kind != "hole"}
        for drive, image in images.items()
    }
    common = set.intersection(*contents.values())
    said = [
        f"pool {pg[0]} pg {pg[1]}, only on drive {drive}: volume {line.volume} block {line.block} "
        f"{line.kind} {line.version} {line.digest[:16]}"
        for drive, lines in contents.items()
        for line in sorted(lines - common)
    ]
    more = [f"and {len(said) - TOLD_MAX} more"] if len(said) > TOLD_MAX else []
    return [f"copies of pool {pg[0]} pg {pg[1]} differ", *said[:TOLD_MAX], *more]


def against_journal(
    compared: Compared, volume: str, base: Base, lines: Sequence[Line],
    digest: Callable[[int, int], str],
) -> None:  # fmt: skip
    """Each settled block must be what its clients were told; ``digest``: of a block and a value."""
    held = {line.block: line for line in sorted(lines, key=lambda line: line.layer)}
    for block in sorted({*base.blocks, *held}):
        settled, line = base.block(block), held.get(block)
        seen = line.digest if line is not None and line.kind == "data" else None
        # What nobody knows the outcome of may have come after the block was read.
        values = {settled.value, *(op.value for op in settled.pending)}
        if seen not in {None if value == ZERO else digest(block, value) for value in values}:
            compared.problems.append(
                f"volume {volume} block {block}: copies hold {line.kind if line else 'nothing'} "
                f"{line.version if line else ''}, clients were told {settled}"
            )
        compared.settled += 1


def _of_volume(
    images: Mapping[int, Image], members: Mapping[Pg, Sequence[int]], volume: str
) -> Iterator[Line]:
    """Its blocks, each from the first drive in sync: the others have the same."""
    for drive, image in images.items():
        for line in read_lines(image.lines):
            if line.volume == volume and members.get(line.pg, [None])[0] == drive:
                yield line


def read_lines(path: Path) -> Iterator[Line]:
    """Blocks of one copy."""
    with path.open() as file:
        for text in file:
            pool, pg, layer, chunk, block, volume, kind, version, _, digest, _ = text.split()
            number = int(chunk, 16) * CHUNK_BLOCKS + int(block, 16)
            at = (int(pool, 16), int(pg, 16))
            yield Line(at, int(layer, 16), number, volume, kind, version, digest)
