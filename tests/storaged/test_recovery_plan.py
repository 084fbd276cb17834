"""Random histories: whatever copy of the store comes back, nothing acknowledged is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from drystone_storaged.cluster.recovery import plan
from tests.storaged.recovery_model import REF, World

DRIVES = st.integers(1, 4)
STEPS = st.one_of(
    st.tuples(st.just("write"), st.none()),
    st.tuples(st.just("tail"), st.sets(DRIVES)),
    st.tuples(st.just("drop"), DRIVES),
    st.tuples(st.just("leave"), DRIVES),
    st.tuples(st.just("join"), DRIVES),
    st.tuples(st.just("promote"), DRIVES),
    st.tuples(st.just("retarget"), DRIVES),
    st.tuples(st.just("free"), DRIVES),
    st.tuples(st.just("note"), DRIVES),
    st.tuples(st.just("attach"), st.none()),
)
HISTORIES = st.lists(STEPS, max_size=40)


def played(steps) -> World:
    world = World()
    for what, which in steps:
        match what:
            case "write":
                world.write()
            case "tail":
                world.write(reaches=which)
            case "drop":
                world.drop(which, knows=False)
            case "leave":
                world.drop(which, knows=True)
            case "attach":
                world.attach()
            case _:
                getattr(world, what)(which)
    return world


@settings(max_examples=150, deadline=None)
@given(HISTORIES, st.integers(0, 1000))
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
@given(HISTORIES, st.integers(0, 1000))
def test_after_a_crash_every_copy_that_counts_holds_everything_acknowledged_or_it_is_refused(
    steps, copy
):
    world = played(steps)
    found = plan(world.inputs(copy))
    if found.refusals:
        assert REF not in found.pgs
        return
    record = found.pgs[REF]
    assert record.insync
    assert record.epoch > world.epoch
    for drive in record.insync:
        missing = world.acked - world.disks[drive].holds
        assert not missing, f"drive {drive} would count and lacks {missing}"


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(0, 1000), DRIVES)
def test_a_drive_that_is_not_scanned_is_never_passed_over_in_silence(steps, copy, missing):
    world = played(steps)
    world.stop_in_order()
    inputs = world.inputs(copy)
    left = tuple(s for s in inputs.scans if s.drives[0].number != missing)
    found = plan(type(inputs)(inputs.backup, left, frozenset(), 99, 77))
    assert any(f"drive {missing} of" in line for line in found.refusals)


@settings(max_examples=80, deadline=None)
@given(HISTORIES, st.integers(0, 1000), DRIVES)
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
@given(HISTORIES, st.integers(0, 1000))
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
