//! A copy whose source cannot read a block: the rest is saved, nothing is invented, nothing is given up early.

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Action, Report};
use drystone_store::api::ObjectStore;
use drystone_store::testing::NaiveStore;
use drystone_types::*;

const KEY: ObjKey = ObjKey { layer: LAYER, chunk: 0 };

/// Blocks 0 to 9 of chunk 0 on all drives, stable; then only `insync` is in sync, and drive 3 is blank.
fn written(insync: &[u32]) -> World {
    let mut w = World::new();
    for seq in 1..=10 {
        w.write(&[1, 2, 3], 1, seq, seq - 1, seq as u8);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, 10));
    w.map(map(2, 2, insync, &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w
}

fn join(w: &mut World, insync: &[u32]) {
    w.map(map(3, 3, insync, &[joiner(3, 3, 0)]));
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
}

fn rot(w: &mut World, drive: u32, blocks: &[u16]) {
    for block in blocks {
        w.drive(drive).r.store_mut().corrupt(KEY, *block);
    }
}

fn lost(w: &World) -> Vec<u16> {
    let block = |(d, a): &(u32, Action)| match a {
        Action::Report(Report::Unrepaired { vol: VOL, key: KEY, block }) if *d == 3 => Some(*block),
        _ => None,
    };
    w.actions.iter().filter_map(block).collect()
}

#[test]
fn a_block_rotten_at_the_last_copy_is_copied_as_bad_and_everything_else_is_saved() {
    let mut w = written(&[1]);
    rot(&mut w, 1, &[4, 5, 8]);
    join(&mut w, &[1]);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert_eq!(lost(&w), [4, 5, 8]);
    assert_eq!(w.drive(3).count("resync_bad_blocks"), 3);
    w.map(map(4, 4, &[1, 3], &[]));
    let rig = w.drive(3);
    rig.seal(2);
    for block in 0..10 {
        if [4, 5, 8].contains(&block) {
            assert_eq!(rig.read(2, block).hdr.status, Status::Eio, "block {block}");
        } else {
            assert_eq!(rig.byte(2, block), Some(block as u8 + 1));
        }
    }
    assert_eq!(rig.write(2, 1, 4, 44), Status::Ok);
    assert_eq!(rig.byte(2, 4), Some(44), "until it is overwritten");
    let rig = w.drives.remove(&3).unwrap();
    let mut rig = rig.restart(2);
    rig.map(map(4, 4, &[1, 3], &[]));
    assert_eq!(rig.read(2, 5).hdr.status, Status::Eio, "also after a restart");
}

#[test]
fn a_block_that_is_whole_at_another_in_sync_copy_comes_from_there() {
    let mut w = written(&[1, 2]);
    rot(&mut w, 1, &[4]);
    join(&mut w, &[1, 2]);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert_eq!((lost(&w), w.drive(3).count("resync_bad_blocks")), (Vec::new(), 0));
    w.assert_equal(2, 3, 0..1);
    w.completes.clear();
    w.settle();
    assert_eq!(w.drive(1).count("healed"), 1, "the source heals itself from there too");
}

#[test]
fn copies_that_are_rotten_at_different_blocks_lose_nothing() {
    let mut w = written(&[1, 2]);
    rot(&mut w, 1, &[4, 5]);
    rot(&mut w, 2, &[6, 7]);
    join(&mut w, &[1, 2]);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert_eq!(w.drive(3).count("resync_bad_blocks"), 0);
    w.map(map(4, 4, &[1, 2, 3], &[]));
    w.drive(3).seal(2);
    for block in 0..10 {
        assert_eq!(w.drive(3).byte(2, block), Some(block as u8 + 1));
    }
}

#[test]
fn a_block_is_given_up_only_after_every_in_sync_member_failed_twice() {
    let mut w = written(&[1, 2]);
    rot(&mut w, 1, &[4]);
    rot(&mut w, 2, &[4]);
    let asked = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = asked.clone();
    w.tap = Some(Box::new(move |from, to, frame| {
        if from == 3 && frame.hdr.kind == MsgType::Copy && !frame.hdr.is_resp() {
            seen.borrow_mut().push(to);
        }
        true
    }));
    join(&mut w, &[1, 2]);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert_eq!(w.drive(3).count("resync_bad_blocks"), 1);
    let asked = asked.borrow();
    assert_eq!([1, 2].map(|d| asked.iter().filter(|a| **a == d).count()), [2, 2]);
}

#[test]
fn nothing_is_given_up_while_an_in_sync_member_is_silent() {
    let mut w = written(&[1, 2]);
    rot(&mut w, 1, &[4]);
    let second = w.drives.remove(&2).unwrap();
    join(&mut w, &[1, 2]);
    w.settle();
    assert!(w.completes.is_empty());
    assert_eq!(w.drive(3).count("resync_bad_blocks"), 0);
    w.drives.insert(2, second);
    w.drive(2).map(map(3, 3, &[1, 2], &[joiner(3, 3, 0)]));
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(2, 3, 0..1);
}

#[test]
fn a_block_written_since_the_join_is_never_replaced_by_bad() {
    let mut w = written(&[1]);
    rot(&mut w, 1, &[4]);
    join(&mut w, &[1]);
    let layer = w.drive(3).layer_frame(1, &ticket(1, 1));
    assert_eq!(w.drive(3).call(layer).hdr.status, Status::Ok);
    // Nobody else asks for anything, so that the copy does not rest.
    w.silent();
    // The answer that names the block is on its way when the write comes.
    loop {
        w.run_devices();
        w.collect();
        if w.wire.iter().any(|(_, _, f, answer)| *answer && f.hdr.kind == MsgType::Copy) {
            break;
        }
        assert!(w.deliver());
    }
    // It has not reached the source yet.
    w.write(&[3], 1, 11, 4, 99);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert_eq!(w.drive(3).count("resync_bad_blocks"), 0);
    w.map(map(4, 4, &[1, 3], &[]));
    assert_eq!(w.drive(3).byte(1, 4), Some(99));
}

#[test]
fn a_returning_drive_keeps_its_bytes_of_a_block_that_its_source_lost_and_gives_them_back() {
    let mut w = World::new();
    for seq in 1..=10 {
        w.write(&[1, 2, 3], 1, seq, seq - 1, seq as u8);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, 10));
    w.map(map(2, 2, &[1], &[]));
    rot(&mut w, 1, &[4]);
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    join(&mut w, &[1]);
    w.settle();
    w.map(map(4, 4, &[1, 3], &[]));
    w.drive(3).seal(2);
    // Drive 2 returns, and its source is drive 3, which has the block as bad.
    w.map(map(5, 5, &[3], &[joiner(2, 5, 1)]));
    w.drive(2).generations(5, &[(VOL, Gen(2), 2)]);
    w.completes.clear();
    w.settle();
    assert_eq!(w.completes, [(2, 5)]);
    w.map(map(6, 6, &[3, 2], &[]));
    assert_eq!(w.drive(3).read(2, 4).hdr.status, Status::Eio);
    w.completes.clear();
    w.settle();
    assert_eq!(w.drive(3).byte(2, 4), Some(5), "healed from drive 2");
    assert_eq!(w.drive(2).r.store().digest_now(KEY), w.drive(3).r.store().digest_now(KEY));
}

#[test]
fn a_repair_still_gets_no_bytes_for_a_rotten_block() {
    let mut w = written(&[1, 2]);
    rot(&mut w, 1, &[4]);
    let mut meta = Writer::new();
    meta.u32(1).u16(4).u16(1);
    let hdr = Header { count: 1, flags: Flags::COPY, ..w.drive(1).hdr(MsgType::Copy, 1) };
    let answer = w.drive(1).call_from(drive_peer(2), Frame::with_meta(hdr, meta.finish()));
    assert_eq!(answer.hdr.status, Status::BadChecksum);
    assert!(w.drive(1).r.store().space().live > 0);
}
