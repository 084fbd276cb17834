"""What a recovery does with drives and volumes, and what it refuses; scans as files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from drystone_cli.app import app
from drystone_common.errors import DataError
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import (
    Attachment,
    AttachMode,
    AttachState,
    ChainLink,
    Content,
    ContentState,
    DriveState,
    Layer,
    LayerState,
    Order,
)
from drystone_storaged.cluster.recovery import plan
from drystone_storaged.cluster.recovery_inputs import Inputs
from drystone_storaged.cluster.scans import (
    NodeScan,
    ScannedDrive,
    ScannedPg,
    ScannedTicket,
    ScannedVolume,
    StoredRole,
    Unread,
)
from drystone_storaged.recover.scanfile import read_scan, write_scan
from tests.storaged.recovery_model import CLUSTER, REF, VOLUME, backup, stored

RECORD = PgRecord(4, (1, 2, 3), target=(1, 2, 3))
TICKET = ScannedTicket(2, 9, 1 << 20, 1, 7, (12,))
HELD = ScannedVolume(11, 9, 9, TICKET, (12,), 256)
ATTACHED = replace(
    VOLUME, generation=3, clean=False, ticket_serial=1,
    attachments=(Attachment("c", "b", 5, AttachMode.READ_WRITE, AttachState.ACTIVE),),
)  # fmt: skip


def pg(epoch=6, role=StoredRole.IN_SYNC, highest=None, **more) -> ScannedPg:
    highest = highest or epoch
    return ScannedPg(1, 0, epoch, role, highest, highest, objects=more.pop("objects", 3), **more)


def scanned(number: int, one: ScannedPg | None = None, **more) -> ScannedDrive:
    base = ScannedDrive(
        stored(number).uuid, number, CLUSTER, f"/d{number}", f"h{number}:1", f"s{number}", 1 << 30,
        40 + number, 1, 60, pgs=(one or pg(),), volumes=(HELD,),
    )  # fmt: skip
    return replace(base, **more)


def node(number: int, *drives: ScannedDrive, unread=()) -> NodeScan:
    return NodeScan(CLUSTER, f"n{number}", f"{number:032x}", 9, drives, tuple(unread))


def inputs(*scans: NodeScan, without=(), volumes=(ATTACHED,), record=RECORD, **store) -> Inputs:
    base = replace(backup(record, {1, 2, 3}, tuple(volumes)), **store)
    return Inputs(base, scans, frozenset(without), 99, 77)


def whole(**more) -> Inputs:
    return inputs(*(node(n, scanned(n)) for n in (1, 2, 3)), **more)


def test_every_number_goes_above_what_was_seen_and_nobody_stays_attached():
    found = plan(whole(incarnation=4))
    assert found.refusals == ()
    assert found.incarnation == 5
    assert found.revision_min > 60
    (volume,) = found.volumes.volumes
    assert volume.generation > 9
    assert (volume.owner, volume.attachments, volume.clean) == (77, (), False)
    assert volume.fencing is not None
    assert volume.fencing.generation == volume.generation
    assert volume.fencing.concerns("anybody")
    assert volume.ticket_serial > 2
    assert found.counters["object"] > 12
    assert found.counters["drive"] > 3


def test_drives_are_recorded_as_they_are_on_disk_and_open_by_that_nonce():
    drive = plan(whole()).drives[2]
    assert (drive.nonce, drive.previous_nonce, drive.addr) == (42, 0, "h2:1")
    assert (drive.state, drive.proven, drive.ended) == (DriveState.UP, True, False)


def test_a_drive_that_came_after_the_copy_is_recorded_again_with_its_node():
    new = node(4, scanned(4))
    found = plan(inputs(*(node(n, scanned(n)) for n in (1, 2, 3)), new))
    assert found.refusals == ()
    assert found.drives[4].node_name == "n4"
    assert found.nodes[f"{4:032x}"].name == "n4"
    assert set(found.pgs[REF].insync) == {1, 2, 3, 4}
    assert "drive 4 of n4 came after the copy" in "\n".join(found.notes)


def one_refusal(made: Inputs, text: str) -> None:
    found = plan(made)
    assert any(text in line for line in found.refusals), found.refusals


def test_what_cannot_be_decided_is_refused_with_its_reason():
    two = [node(n, scanned(n)) for n in (1, 2)]
    one_refusal(inputs(), "no scan is given")
    one_refusal(inputs(*two), "drive 3 of n3 is not scanned")
    one_refusal(inputs(*two, node(3, scanned(3, suspect="HeaderLost"))), "cannot be believed")
    one_refusal(inputs(*two, node(3, scanned(3, damaged=("Seal(1)",)))), "do not decode")
    one_refusal(inputs(*two, node(3, scanned(3, serial="other"))), "another device")
    one_refusal(inputs(*two, node(3, scanned(3, uuid="x"))), "the store knows another")
    one_refusal(inputs(*two, node(3, scanned(3)), node(4, scanned(3))), "is in two scans")
    one_refusal(inputs(*two, two[1], node(3, scanned(3))), "is given twice")
    foreign = replace(node(3, scanned(3)), cluster="other")
    one_refusal(inputs(*two, foreign), "this store is of")
    unread = Unread(stored(3).uuid, "/d3", "it is damaged")
    one_refusal(inputs(*two, node(3, unread=[unread])), "could not be read (it is damaged)")
    unread = Unread("nobody", "/d9", "it is damaged")
    one_refusal(inputs(*two, node(3, scanned(3), unread=[unread])), "does not know it")
    one_refusal(inputs(*two, node(3, scanned(3)), without=(8,)), "there is no drive 8")
    stranger = replace(scanned(3), pgs=(replace(pg(), pool=2),))
    one_refusal(inputs(*two, node(3, stranger)), "pool 2 is on the drives")
    stranger = replace(scanned(3), pgs=(replace(pg(), pg=7),))
    one_refusal(inputs(*two, node(3, stranger)), "has no such PG")


def test_nobody_who_noted_the_newest_epoch_is_refused_and_never_guessed():
    joiner = scanned(3, pg(9, StoredRole.JOINING))
    stamped = scanned(3, pg(6, highest=8))
    distrusted = scanned(3, pg(9, distrusted=True))
    # Moved away since: whoever has the group now is not among those that are scanned.
    left = scanned(3, pg(9, StoredRole.OUT))
    freed = scanned(3, pg(9, StoredRole.FREED, objects=0))
    for last in (joiner, stamped, distrusted, left, freed):
        made = inputs(node(1, scanned(1)), node(2, scanned(2)), node(3, last))
        one_refusal(made, "none noted that it was in sync in it")


def test_a_freed_copy_counts_for_nothing_and_keeps_an_older_one_from_counting():
    freed = scanned(3, pg(7, StoredRole.FREED, objects=2))
    found = plan(inputs(node(1, scanned(1, pg(7))), node(2, scanned(2, pg(8))), node(3, freed)))
    assert found.pgs[REF].insync == (2,)
    # Those it moved to are not here: nothing is taken for empty, and nothing older for the newest.
    alone = inputs(node(3, freed), without=(1, 2))
    one_refusal(alone, "drive 3: freed in epoch 7")
    older = inputs(node(1, scanned(1, pg(6))), node(3, freed), without=(2,))
    one_refusal(older, "none noted that it was in sync in it")


def test_a_drive_that_was_dropped_and_stamped_its_drop_does_not_count():
    dropped = scanned(3, pg(6, highest=7))
    found = plan(inputs(node(1, scanned(1, pg(7))), node(2, scanned(2, pg(7))), node(3, dropped)))
    record = found.pgs[REF]
    assert record.insync == (1, 2)
    assert [o.drive for o in record.out] == [3]
    assert "in sync are [1, 2], the copy says [1, 2, 3]" in found.notes[0]


def test_drives_that_left_say_so_and_where_the_data_went_must_be_found():
    """The last of them was in sync in epoch 24, and says that the group went on without it."""
    left = [node(n, scanned(n, pg(22 + n, StoredRole.OUT))) for n in (1, 2, 3)]
    one_refusal(inputs(*left), "the newest epoch on any drive is 25")
    one_refusal(inputs(*left), "drive 3: out in epoch 25")
    stays = node(4, scanned(4, pg(25)))
    assert plan(inputs(*left, stays)).pgs[REF].insync == (4,)


def test_what_a_drive_that_is_given_up_says_counts_against_older_copies():
    old = (node(1, scanned(1)), node(2, scanned(2)))
    newer = node(3, scanned(3, pg(9), suspect="HeaderLost"))
    one_refusal(inputs(*old, newer, without=(3,)), "drive 3, given up: in-sync in epoch 9")
    known = PgRecord(9, (3,), target=(1, 2, 3))
    one_refusal(inputs(*old, without=(3,), record=known), "only drives [3] were in sync")
    same = replace(known, epoch=6, insync=(2, 3))
    assert plan(inputs(*old, without=(3,), record=same)).pgs[REF].insync == (1, 2)
    nobody = plan(inputs(newer, without=(1, 2, 3), drives={4: stored(4)}))
    assert not nobody.pgs
    blank = node(4, replace(scanned(4), pgs=(), volumes=()))
    empty = plan(inputs(newer, blank, without=(1, 2, 3), record=replace(known, target=(4,))))
    assert (empty.refusals, empty.pgs[REF].insync) == ((), (4,))
    assert "only drives that are given up had it" in "\n".join(empty.notes)


def test_two_drives_with_one_number_are_refused_and_both_are_named():
    twin = scanned(3, uuid="another", path="/twin")
    whole_ = [node(n, scanned(n)) for n in (1, 2, 3)]
    text = "number 3 is on two drives"
    one_refusal(inputs(*whole_, node(4, twin)), text)
    one_refusal(inputs(*whole_[:2], node(3, scanned(3), twin)), "/d3 of n3")
    one_refusal(inputs(*whole_, node(4, twin), without=(3,)), text)
    fresh = replace(twin, number=0)
    foreign = replace(twin, cluster="another", uuid="c")
    assert plan(inputs(*whole_, node(4, fresh, replace(fresh, uuid="b"), foreign))).refusals == ()


CONTENT = {
    "never": Content(),
    "formatting": Content(ContentState.FORMATTING, "ext4", "n"),
    "fs": Content(ContentState.FS, "ext4"),
    "raw": Content(ContentState.RAW),
}
NOTHING = ScannedVolume(11, 3, 3)
NEWER = ScannedVolume(11, 9, 9)


@pytest.mark.parametrize(
    ("was", "seen", "without", "becomes"),
    [
        ("formatting", HELD, (), "raw"),
        ("formatting", replace(HELD, sealed_generation=3, ticket=None), (), "raw"),
        ("formatting", NEWER, (), "raw"),
        ("formatting", ScannedVolume(11, 2, 2), (), "raw"),  # its attachment reached nobody
        ("formatting", NOTHING, (3,), "raw"),
        ("formatting", NOTHING, (), "never"),
        ("never", HELD, (), "raw"),
        ("never", NEWER, (), "never"),
        ("never", NEWER, (3,), "raw"),
        ("never", NOTHING, (), "never"),
        ("fs", HELD, (), "fs"),
        ("raw", NOTHING, (), "raw"),
    ],
)
def test_content_of_a_copy_never_lets_a_volume_be_formatted_that_may_hold_something(
    was, seen, without, becomes
):
    volume = replace(ATTACHED, content=CONTENT[was])
    scans = [node(n, scanned(n, volumes=(seen,))) for n in (1, 2, 3) if n not in without]
    found = plan(inputs(*scans, volumes=(volume,), without=without))
    assert found.refusals == ()
    (new,) = found.volumes.volumes
    assert new.content == CONTENT[becomes]
    told = any("is not formatted again" in line for line in found.notes)
    assert told is (becomes == "raw" != was)


def test_a_volume_that_was_never_attached_may_be_formatted_whoever_is_given_up():
    scans = [node(n, scanned(n, volumes=())) for n in (1, 2)]
    first = plan(inputs(*scans, volumes=(VOLUME,), without=(3,)))
    (volume,) = first.volumes.volumes
    assert volume.content.state is ContentState.NEVER
    again = plan(inputs(*scans, volumes=(volume,), without=(3,), drives=first.drives))
    assert again.volumes.volumes[0].content.state is ContentState.NEVER


def test_a_drive_that_a_recovery_gave_up_before_it_was_cut_short_is_still_missed():
    volume = replace(ATTACHED, content=CONTENT["formatting"])
    scans = [node(n, scanned(n, volumes=(NOTHING,))) for n in (1, 2)]
    begun = plan(inputs(*scans, volumes=(volume,), without=(3,)))
    drives = {n: stored(n) for n in (1, 2)} | {3: begun.drives[3]}
    again = plan(inputs(*scans, volumes=(volume,), drives=drives))
    assert again.volumes.volumes[0].content.state is ContentState.RAW


def test_orders_of_a_recovery_share_no_number_with_later_ones():
    gone = replace(VOLUME, id=31, name="gone", chain=(ChainLink(32), ChainLink(33)))
    scans = [node(n, scanned(n, freed=(32,))) for n in (1, 2, 3)]
    kept = Order(5_007, 1, 42)
    made = inputs(
        *scans, volumes=(ATTACHED, gone), orders=(kept,), counters={"order": 9_001, "task": 3}
    )
    found = plan(made)
    numbers = [o.id for o in found.volumes.orders]
    assert len(set(numbers)) == 3
    assert all(n >= 9_001 for n in numbers if n != kept.id)
    assert found.counters["order"] > max(numbers)
    assert found.counters["task"] == 3
    assert plan(whole()).counters["order"] >= 1


def test_the_layer_of_a_head_that_is_missing_is_written_again():
    layer = Layer(12, 11, 1, 7, 1 << 20, LayerState.HEAD)
    assert plan(whole()).volumes.layers == (layer,)
    assert plan(whole(layers={12: layer})).volumes.layers == ()


def test_copies_that_must_be_equal_and_are_not_are_refused():
    clean = replace(VOLUME, generation=9)
    empty = scanned(3, pg(objects=0))
    scans = (node(1, scanned(1)), node(2, scanned(2)), node(3, empty))
    one_refusal(inputs(*scans, volumes=(clean,)), "nobody can have written since the copy")
    # Somebody was attached later: an unfinished write may be on some only, and is made equal.
    assert plan(inputs(*scans, volumes=(replace(clean, generation=8),))).refusals == ()


def test_a_drive_that_is_given_up_is_forgotten_and_said():
    found = plan(inputs(node(1, scanned(1)), node(2, scanned(2)), without=(3,)))
    assert found.refusals == ()
    assert found.drives[3].state is DriveState.GONE
    assert found.pgs[REF].target == (1, 2)
    assert any("drive 3 is given up" in line for line in found.notes)


def test_volumes_come_and_go_as_the_drives_saw_it():
    other = ScannedVolume(
        21, 2, 2, ScannedTicket(1, 2, 2 << 20, 1, 8, (22,)), layers=(22,), end_block=600
    )
    grown = replace(HELD, ticket=replace(TICKET, size=4 << 20))
    drives = [scanned(n, volumes=(grown, other), freed=(32,)) for n in (1, 2, 3)]
    gone = replace(VOLUME, id=31, name="gone", chain=(ChainLink(32),))
    order = Order(5, 1, 42, confirmed=(1, 2))
    layer = Layer(42, 41, 1, 1, 1, LayerState.DELETED)
    found = plan(
        inputs(
            *(node(d.number, d) for d in drives), volumes=(ATTACHED, gone), orders=(order,),
            layers={42: layer},
        )
    ).volumes  # fmt: skip
    assert [v.name for v in found.deleted] == ["gone"]
    assert [(v.name, v.size) for v in found.volumes] == [("v", 4 << 20)]
    (new,) = found.found
    assert (new.name, new.size, new.seed, new.head) == (
        "recovered-0000000000000015",
        600 * 4096,
        8,
        22,
    )
    assert new.content.state is ContentState.RAW
    assert new.generation > 2
    assert [(o.layer, o.confirmed) for o in found.orders] == [(42, ()), (32, ())]
    assert {layer.id: layer.state for layer in found.layers} == {
        12: LayerState.HEAD, 22: LayerState.HEAD, 32: LayerState.DELETED,
    }  # fmt: skip


def test_a_volume_that_cannot_be_recorded_is_named_and_left_alone():
    no_ticket = ScannedVolume(21, 2, 2, None, layers=(22,), end_block=5)
    cloned = ScannedVolume(
        23, 2, 2, ScannedTicket(1, 2, 4096, 1, 8, (24,), parents=1), layers=(24,), end_block=1
    )
    freed_elsewhere = ScannedVolume(
        25, 2, 2, ScannedTicket(1, 2, 4096, 1, 8, (26,)), layers=(26,), end_block=1
    )
    seen = (HELD, no_ticket, cloned, freed_elsewhere)
    scans = [node(n, scanned(n, volumes=seen, freed=(26,) if n == 1 else ())) for n in (1, 2, 3)]
    found = plan(inputs(*scans))
    assert found.refusals == ()
    assert found.volumes.found == ()
    told = "\n".join(found.notes)
    assert "NOT recovered: no drive kept a ticket" in told
    assert "NOT recovered: it has snapshots" in told
    assert [o.layer for o in found.volumes.orders] == [26], "it was deleted: freed everywhere"


def test_a_scan_travels_as_a_file_and_any_change_of_it_is_found(tmp_path):
    path = tmp_path / "n.scan"
    scan = node(1, scanned(1), unread=[Unread("u", "/x", "why")])
    write_scan(path, scan)
    assert read_scan(path) == scan
    text = path.read_text()
    bad = {
        text.replace('"epoch": 6', '"epoch": 7', 1): "scan_damaged",
        text.replace('"format": 1', '"format": 2', 1): "scan_format",
        text[: len(text) // 2]: "scan_invalid",
        "{}": "scan_invalid",
        json.dumps({**json.loads(text), "more": 1}): "scan_invalid",
    }
    for changed, code in bad.items():
        path.write_text(changed)
        with pytest.raises(DataError) as caught:
            read_scan(path)
        assert caught.value.code == code
        assert caught.value.hint


def test_a_scan_without_a_drive_that_should_be_there_is_written_and_ends_with_9(
    tmp_path, monkeypatch
):
    async def scanned_node(_settings, _parts):
        return node(1, scanned(1), unread=unread)

    monkeypatch.setattr("drystone_storaged.recover.scan.scan_node", scanned_node)
    monkeypatch.setattr("drystone_cli.recover.load_settings", lambda *_args, **_kw: None)
    out = tmp_path / "n.scan"
    unread = [Unread("u", "/x", "why")]
    argv = ["recover", "scan", "--config", "server.toml", "--out", str(out)]
    found = CliRunner().invoke(app, argv)
    assert "NOT READ: why" in found.output
    assert isinstance(found.exception, DataError)
    assert (found.exception.code, int(found.exception.exit_code)) == ("scan_incomplete", 9)
    assert read_scan(out).unread == tuple(unread)
    unread = []
    assert CliRunner().invoke(app, argv).exit_code == 0
