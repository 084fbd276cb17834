//! An attach that finds a version which no device can read now: what it is answered, and what joiners make of it.

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Action, LeaveWhy};
use drystone_store::testing::NaiveStore;
use drystone_types::*;

const KEY: ObjKey = ObjKey { layer: LAYER, chunk: 0 };

fn exact(rig: &mut Rig, gen: u32, version: Version, block: u64) -> Status {
    let hdr = rig.hdr(MsgType::Read, gen);
    let hdr = Header { flags: Flags::ROLL, origin_gen: version.gen, seq: version.seq, block, count: 1, ..hdr };
    rig.call(Frame::bare(hdr)).hdr.status
}

fn unread(rig: &mut Rig, gen: u32, version: Version, block: u64) -> Status {
    let hdr = rig.hdr(MsgType::Write, gen);
    let flags = Flags::ROLL.with(Flags::UNREAD);
    let hdr = Header { flags, origin_gen: version.gen, seq: version.seq, block, count: 1, ..hdr };
    rig.call(Frame::bare(hdr)).hdr.status
}

/// Versions 1 to 4 of blocks 0 to 3 on drive 1 alone in sync; drive 3 is blank and joins.
fn joining() -> World {
    joining_with(&[0, 1, 2, 3])
}

/// The same with versions 1 and on of these blocks.
fn joining_with(blocks: &[u64]) -> World {
    let mut w = World::new();
    for (seq, block) in (1..).zip(blocks) {
        w.write(&[1, 2, 3], 1, seq, *block, seq as u8);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, blocks.len() as u64));
    w.map(map(2, 2, &[1], &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.map(map(3, 3, &[1], &[joiner(3, 3, 0)]));
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
    let layer = w.drive(3).layer_frame(1, &ticket(1, 1));
    assert_eq!(w.drive(3).call(layer).hdr.status, Status::Ok);
    // Nobody else asks for anything, so that the copy does not rest.
    w.silent();
    w
}

fn left_behind(w: &World) -> bool {
    let asks = |a: &(u32, Action)| a.0 == 3 && matches!(a.1, Action::LeavePg { why: LeaveWhy::Behind, .. });
    w.actions.iter().any(asks)
}

#[test]
fn the_fetch_of_a_roll_tells_rot_from_a_device_that_cannot_read() {
    let mut rig = Rig::active(1);
    for seq in 1..=3 {
        assert_eq!(rig.write(1, seq, seq, 7), Status::Ok);
    }
    rig.seal(2);
    rig.r.store_mut().corrupt(KEY, 1);
    rig.r.store_mut().unreadable(KEY, 2, true);
    assert_eq!(exact(&mut rig, 2, Version::new(1, 1), 1), Status::BadChecksum);
    assert_eq!(exact(&mut rig, 2, Version::new(1, 2), 2), Status::Eio);
    assert_eq!(exact(&mut rig, 2, Version::new(1, 3), 3), Status::Ok);
    rig.r.store_mut().unreadable(KEY, 2, false);
    assert_eq!(exact(&mut rig, 2, Version::new(1, 2), 2), Status::Ok, "and nothing was lost");
}

#[test]
fn a_joiner_whose_copy_is_under_way_takes_the_version_from_it() {
    let mut w = joining();
    // The answer that still says what was there before waits on the wire.
    while !w.wire.iter().any(|(from, to, f, answer)| (*from, *to, *answer, f.hdr.kind) == (1, 3, true, MsgType::Copy)) {
        assert!(w.deliver() || !w.wire.is_empty());
        w.run_devices();
        w.collect();
    }
    let late = w.wire.clone();
    w.wire.clear();
    assert_eq!(w.drive(1).write(1, 9, 0, 99), Status::Ok);
    w.drive(1).r.store_mut().unreadable(KEY, 0, true);
    w.drive(1).seal(2);
    w.drive(3).seal(2);
    assert_eq!(unread(w.drive(3), 2, Version::new(1, 9), 0), Status::Ok);
    w.wire.extend(late);
    for _ in 0..3 {
        w.settle();
    }
    assert!(w.completes.is_empty(), "the copy waits for the device");
    assert_eq!(w.drive(3).count("resync_bad_blocks"), 0);
    w.drive(1).r.store_mut().unreadable(KEY, 0, false);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..1);
}

#[test]
fn a_joiner_that_has_it_already_says_so() {
    let mut w = joining();
    for drive in [1, 3] {
        assert_eq!(w.drive(drive).write(1, 9, 0, 99), Status::Ok);
        w.drive(drive).seal(2);
    }
    assert_eq!(unread(w.drive(3), 2, Version::new(1, 9), 0), Status::Ok);
    w.settle();
    assert!(!left_behind(&w));
    assert_eq!(w.completes, [(3, 3)]);
}

#[test]
fn a_joiner_that_would_keep_an_older_write_leaves_and_joins_anew() {
    let mut w = joining();
    assert_eq!(w.drive(1).write(1, 8, 0, 8), Status::Ok);
    assert_eq!(w.drive(3).write(1, 8, 0, 8), Status::Ok);
    assert_eq!(w.drive(1).write(1, 9, 0, 9), Status::Ok);
    w.drive(1).seal(2);
    w.drive(3).seal(2);
    assert_eq!(unread(w.drive(3), 2, Version::new(1, 9), 0), Status::Retry);
    for _ in 0..2 {
        w.settle();
    }
    assert!(left_behind(&w) && w.completes.is_empty());
    assert_eq!(unread(w.drive(3), 2, Version::new(1, 9), 0), Status::Retry);
    w.map(map(4, 4, &[1], &[]));
    w.map(map(5, 5, &[1], &[joiner(3, 5, 0)]));
    w.drive(3).generations(5, &[(VOL, Gen(2), 2)]);
    w.settle();
    assert_eq!(w.completes, [(3, 5)]);
    w.assert_equal(1, 3, 0..1);
}

#[test]
fn a_joiner_whose_copy_is_complete_leaves_too() {
    let mut w = joining();
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert_eq!(w.drive(1).write(1, 9, 0, 9), Status::Ok);
    w.drive(1).seal(2);
    w.drive(3).seal(2);
    assert_eq!(unread(w.drive(3), 2, Version::new(1, 9), 0), Status::Retry);
    w.completes.clear();
    w.settle();
    assert!(left_behind(&w));
}

#[test]
fn an_acknowledged_version_needs_no_copy() {
    let mut w = joining();
    w.settle();
    w.completes.clear();
    for drive in [1, 3] {
        w.drive(drive).stable(1, Version::new(1, 4));
        w.drive(drive).seal(2);
    }
    assert_eq!(unread(w.drive(3), 2, Version::new(1, 4), 3), Status::Ok);
    w.settle();
    assert!(!left_behind(&w));
}

#[test]
fn a_member_in_sync_is_never_told_that_a_version_is_unread() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.seal(2);
    assert_eq!(unread(&mut rig, 2, Version::new(1, 2), 0), Status::Invalid);
    assert_eq!(rig.byte(2, 0), Some(1));
}

/// As `joining`, with blocks in two chunks, of which the second waits on the wire and the first is copied.
fn first_of_two_chunks_copied() -> (World, Vec<(u32, u32, Frame, bool)>) {
    let mut w = joining_with(&[0, 1024]);
    let mut late = Vec::new();
    for _ in 0..1000 {
        w.run_devices();
        w.collect();
        let (second, rest) =
            w.wire.drain(..).partition(|(_, _, f, _)| f.hdr.kind == MsgType::Copy && f.hdr.block == 1024);
        (w.wire, late) = (rest, [late, second].concat());
        if !w.deliver() && !late.is_empty() {
            break;
        }
    }
    assert_eq!(w.chunk(3, 0), w.chunk(1, 0), "the first chunk is here");
    (w, late)
}

/// Whether drive 3 asked for bytes of the first chunk.
fn asks_first(w: &World) -> bool {
    w.wire.iter().any(|(from, _, f, answer)| (*from, *answer, f.hdr.kind, f.hdr.block) == (3, false, MsgType::Copy, 0))
}

#[test]
fn only_the_chunk_that_is_behind_is_fetched_anew() {
    let (mut w, late) = first_of_two_chunks_copied();
    assert_eq!(w.drive(1).write(1, 9, 1024, 99), Status::Ok);
    w.drive(1).seal(2);
    w.drive(3).seal(2);
    assert_eq!(unread(w.drive(3), 2, Version::new(1, 9), 1024), Status::Ok);
    w.wire.extend(late);
    for _ in 0..1000 {
        w.run_devices();
        w.collect();
        // Writes of this epoch were answered OK because of what is copied.
        assert!(!asks_first(&w), "what is copied must not become void again");
        if !w.deliver() {
            break;
        }
    }
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..2);
}

#[test]
fn a_joiner_that_copied_an_older_version_leaves_although_its_copy_goes_on() {
    let (mut w, _late) = first_of_two_chunks_copied();
    assert_eq!(w.drive(1).write(1, 9, 0, 99), Status::Ok);
    w.drive(1).seal(2);
    w.drive(3).seal(2);
    assert_eq!(unread(w.drive(3), 2, Version::new(1, 9), 0), Status::Retry);
    for _ in 0..2 {
        w.settle();
    }
    assert!(left_behind(&w) && w.completes.is_empty());
}

#[test]
fn an_in_sync_member_has_what_is_stable_or_nothing_to_wait_for() {
    let mut rig = Rig::active(1);
    for seq in 1..=2 {
        assert_eq!(rig.write(1, seq, seq, 7), Status::Ok);
    }
    rig.stable(1, Version::new(1, 2));
    rig.seal(2);
    assert_eq!(unread(&mut rig, 2, Version::new(1, 2), 2), Status::Ok, "it did not name it: it was acknowledged");
    assert_eq!(unread(&mut rig, 2, Version::new(1, 5), 2), Status::Invalid);
}
