"""Random histories: whatever copy of the store comes back, nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from drystone_storaged.cluster.records import ContentState
from drystone_storaged.cluster.recovery import Recovery, plan
from tests.storaged.recovery_model import REF, World

KNOWN = st.integers(1, 4)  # to every copy
LATER = st.integers(5, 6)  # that came after some of the copies
DRIVES = st.one_of(KNOWN, LATER)
EMPTY: frozenset[int] = frozenset()


def step(name: str, which: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), which)


ORDERLY = (
    step("write", st.none()),
    step("tail", st.sets(DRIVES)),
    step("leave", DRIVES),
    step("join", DRIVES),
    step("promote", DRIVES),
    step("retarget", DRIVES),
    step("note", DRIVES),
    step("attach", st.none()),
    step("idle", st.none()),
    step("learn", DRIVES),
    step("add", LATER),
    step("move", st.tuples(DRIVES, DRIVES)),
    step("move all", st.none()),
    step("format", st.none()),
    step("formatted", st.none()),
    step("free", DRIVES),
)
"""What leaves a note on every drive that lives through it."""
# A drive that is dropped while it is away; and one of a version that noted no leave.
STEPS = st.one_of(*ORDERLY, step("drop", DRIVES), step("slip", DRIVES))
HISTORIES = st.lists(STEPS, max_size=40)
ORDERLY_HISTORIES = st.lists(st.one_of(*ORDERLY), max_size=40)
COPIES = st.integers(0, 1000)
LOST = st.tuples(st.booleans(), st.sets(DRIVES))
"""Given up: some, and perhaps everybody who is in sync."""


def played(steps) -> World:
    world = World()
    for what, which in steps:
        ACTIONS[what](world, which)
    return world


def move(world: World, old: int, new: int) -> None:
    if new > 4:
        world.add(new)
    world.join(new)
    world.promote(new)
    world.drop(old, knows=True, notes=True)


def move_all(world: World) -> None:
    for old, new in zip(sorted(world.insync - {5, 6}), (5, 6, 6, 6), strict=False):
        move(world, old, new)


ACTIONS: dict[str, Callable] = {
    "write": lambda world, _: world.write(),
    "tail": lambda world, which: world.write(reaches=which),
    "drop": lambda world, which: world.drop(which, knows=False),
    "slip": lambda world, which: world.drop(which, knows=True),
    "leave": lambda world, which: world.drop(which, knows=True, notes=True),
    "join": World.join,
    "promote": World.promote,
    "retarget": World.retarget,
    "note": World.note,
    "free": World.free,
    "learn": World.learn,
    "add": World.add,
    "move": lambda world, which: move(world, *which),
    "move all": lambda world, _: move_all(world),
    "attach": lambda world, _: world.attach(),
    "idle": lambda world, _: world.idle(),
    "format": lambda world, _: world.format(),
    "formatted": lambda world, _: world.formatted(),
}


def given_up(world: World, lost: tuple[bool, set[int]]) -> frozenset[int]:
    all_in_sync, some = lost
    return frozenset(some & world.disks.keys()) | (world.insync if all_in_sync else EMPTY)


def nothing_is_missing(world: World, found: Recovery) -> None:
    """Refused, or every copy that counts holds all that was acknowledged."""
    if found.refusals:
        return
    record = found.pgs[REF]
    assert record.insync
    assert record.epoch > world.epoch
    for drive in record.insync:
        missing = world.acked - world.disks[drive].holds
        assert not missing, f"drive {drive} would count and lacks {missing}"


@settings(max_examples=150, deadline=None)
@given(HISTORIES, COPIES)
def test_after_an_orderly_stop_exactly_those_in_sync_are_found_whatever_copy_comes_back(
    steps, copy
):
    world = played(steps)
    world.stop_in_order()
    found = plan(world.inputs(copy))
    assert found.refusals == ()
    record = found.pgs[REF]
    assert set(record.insync) == world.insync
    assert record.joining == ()
    assert all(out.e0 == 0 for out in record.out)
    assert record.epoch > world.epoch
    (volume,) = found.volumes.volumes
    assert volume.generation > world.generation
    assert not volume.attachments
    assert not volume.clean


@settings(max_examples=250, deadline=None)
@given(HISTORIES, COPIES)
def test_after_a_crash_every_copy_that_counts_holds_everything_acknowledged_or_it_is_refused(
    steps, copy
):
    world = played(steps)
    found = plan(world.inputs(copy))
    assert not found.refusals or REF not in found.pgs
    nothing_is_missing(world, found)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, COPIES, KNOWN)
def test_a_drive_that_is_not_scanned_is_never_passed_over_in_silence(steps, copy, missing):
    world = played(steps)
    world.stop_in_order()
    inputs = world.inputs(copy)
    left = tuple(s for s in inputs.scans if s.drives[0].number != missing)
    found = plan(type(inputs)(inputs.backup, left, frozenset(), 99, 77))
    assert any(f"drive {missing} of" in line for line in found.refusals)


@settings(max_examples=80, deadline=None)
@given(HISTORIES, COPIES, KNOWN)
def test_a_drive_that_is_given_up_loses_only_what_it_alone_had(steps, copy, lost):
    world = played(steps)
    world.stop_in_order()
    found = plan(world.inputs(copy, frozenset({lost})))
    left = world.insync - {lost}
    if found.refusals:
        assert not left, "another copy in sync is there"
        return
    record = found.pgs[REF]
    assert lost not in (*record.insync, *record.target, *(o.drive for o in record.out))
    if left:
        assert set(record.insync) == left


@settings(max_examples=40, deadline=None)
@given(HISTORIES, COPIES)
def test_planning_from_what_was_just_written_decides_the_same(steps, copy):
    world = played(steps)
    world.stop_in_order()
    first = plan(world.inputs(copy))
    inputs = world.inputs(copy)
    written = type(inputs.backup)(
        inputs.backup.cluster, first.incarnation, first.revision_min, first.drives,
        inputs.backup.pools, first.pgs, first.volumes.volumes,
    )  # fmt: skip
    again = plan(type(inputs)(written, inputs.scans, frozenset(), 99, 77))
    assert again.refusals == ()
    assert again.pgs[REF].insync == first.pgs[REF].insync
    assert again.pgs[REF].epoch > first.pgs[REF].epoch


@settings(max_examples=250, deadline=None)
@given(ORDERLY_HISTORIES, ORDERLY_HISTORIES, st.integers(0, 3), st.sets(LATER, min_size=1))
def test_a_move_to_drives_that_nobody_scans_is_refused_and_never_rolled_back(
    before, after, copy, hidden
):
    moved = [("move all", None), ("write", None), ("idle", None)]
    world = played([*before, *moved, *after])
    unscanned = frozenset(hidden) - world.copy(copy).drives
    found = plan(world.inputs(copy, missing=unscanned))
    nothing_is_missing(world, found)
    assert found.refusals or not world.insync <= unscanned, "nobody is left who has it"


@settings(max_examples=250, deadline=None)
@given(HISTORIES, COPIES, LOST, st.booleans())
def test_what_drives_that_are_given_up_say_still_counts_against_older_copies(
    steps, copy, lost, orderly
):
    world = played(steps)
    if orderly:
        world.stop_in_order()
    without = given_up(world, lost)
    inputs = world.inputs(copy, without, missing=EMPTY)
    found = plan(inputs)
    if any("only drives that are given up had it" in line for line in found.notes):
        assert all(world.disks[d].blank for d in found.pgs[REF].insync)
        return
    nothing_is_missing(world, found)
    if orderly and world.insync - without:
        assert set(found.pgs[REF].insync) == world.insync - without


@settings(max_examples=150, deadline=None)
@given(ORDERLY_HISTORIES, COPIES, LOST)
def test_drives_that_are_given_up_and_cannot_be_read_roll_nothing_back_either(steps, copy, lost):
    world = played(steps)
    without = given_up(world, lost) & world.copy(copy).drives
    found = plan(world.inputs(copy, without))
    if any("only drives that are given up had it" in line for line in found.notes):
        assert all(world.disks[d].blank for d in found.pgs[REF].insync)
        return
    nothing_is_missing(world, found)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, COPIES, st.sets(DRIVES), DRIVES, st.booleans())
def test_two_drives_of_one_number_are_refused_wherever_they_are(steps, copy, lost, twin, here):
    world = played(steps)
    world.stop_in_order()
    world.add(twin)
    inputs = world.inputs(copy, frozenset(lost) & world.disks.keys(), missing=EMPTY)
    scans = []
    for scan in inputs.scans:
        (one,) = scan.drives
        if one.number != twin:
            scans.append(scan)
            continue
        other = replace(one, uuid=f"{9:08x}{one.uuid[8:]}", path="/other", serial="other")
        if here:
            scans.append(replace(scan, drives=(other, one)))
        else:
            scans += [scan, replace(scan, node="n9", node_uuid=f"{9:032x}", drives=(other,))]
    found = plan(replace(inputs, scans=tuple(scans)))
    assert any(f"number {twin}" in line and "/other" in line for line in found.refusals)


@settings(max_examples=250, deadline=None)
@given(HISTORIES, COPIES, LOST)
def test_no_volume_that_was_used_is_formatted_again(steps, copy, lost):
    world = played(steps)
    found = plan(world.inputs(copy, given_up(world, lost), missing=EMPTY))
    (volume,) = found.volumes.volumes
    state = volume.content.state
    assert state is not ContentState.FORMATTING
    if state is ContentState.NEVER:
        assert not any(disk.holds for disk in world.disks.values()), "it would be formatted"
    if world.copy(copy).content in {ContentState.FS, ContentState.RAW}:
        assert state is world.copy(copy).content
