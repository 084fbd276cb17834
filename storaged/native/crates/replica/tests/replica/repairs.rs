//! Read repair and the peer check at open.

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Action, Config, Control, ControlResult, Event, LeaveWhy, Report};
use drystone_store::testing::NaiveStore;
use drystone_types::*;

const KEY: ObjKey = ObjKey { layer: LAYER, chunk: 0 };

#[test]
fn a_rotten_block_answers_bad_checksum_and_is_healed_from_a_peer() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.drive(1).r.store_mut().corrupt(KEY, 5);
    assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::BadChecksum);
    w.settle();
    assert_eq!(w.drive(1).byte(1, 5), Some(5));
    assert_eq!(w.drive(1).count("healed"), 1);
    assert!(w.actions.iter().any(|(d, a)| *d == 1 && matches!(a, Action::Report(Report::Healed { block: 5, .. }))));
}

/// Block 5 was written twice and is stable; drive 1 has lost its bytes and everything that tells its version.
fn headless() -> World {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 4);
    w.write(&[1, 2, 3], 1, 2, 5, 5);
    w.stable(&[1, 2, 3], 1, Version::new(1, 2));
    (1..=3).for_each(|d| w.drive(d).advance(2_000_000));
    w.settle();
    w.drive(1).r.store_mut().lose_header(KEY, 5);
    w
}

#[test]
fn a_block_whose_header_and_summary_are_lost_is_healed_by_agreement_on_stable() {
    for and_another in [false, true] {
        let mut w = headless();
        if and_another {
            w.drive(2).r.store_mut().lose_header(KEY, 5);
        }
        assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::BadChecksum);
        w.settle();
        assert_eq!((w.drive(1).byte(1, 5), w.drive(1).count("healed")), (Some(5), 1));
        w.assert_equal(1, 3, 0..1);
    }
}

#[test]
fn a_peer_with_a_version_above_stable_is_not_believed_where_ours_is_unknown() {
    let mut w = headless();
    // The next write has reached the others and is on its way here: theirs is not what was here.
    w.write(&[2, 3], 1, 3, 5, 6);
    assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::BadChecksum);
    w.settle();
    assert_eq!((w.drive(1).count("healed"), w.drive(1).count("unhealed")), (0, 1));
    // It comes, and replaces what was lost.
    w.write(&[1], 1, 3, 5, 6);
    w.settle();
    assert_eq!((w.drive(1).byte(1, 5), w.drive(1).count("unhealed")), (Some(6), 0));
    w.assert_equal(1, 2, 0..1);
}

#[test]
fn a_write_during_the_repair_of_an_unknown_version_cancels_it() {
    let mut w = headless();
    assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::BadChecksum);
    w.drive(1).run();
    w.write(&[1], 1, 3, 5, 6);
    w.settle();
    assert_eq!((w.drive(1).byte(1, 5), w.drive(1).count("healed")), (Some(6), 0));
}

#[test]
fn a_block_whose_version_is_unknown_at_every_copy_is_reported_and_healed_by_nobody() {
    let mut w = headless();
    (2..=3).for_each(|d| w.drive(d).r.store_mut().lose_header(KEY, 5));
    assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::BadChecksum);
    w.settle();
    assert_eq!((w.drive(1).count("healed"), w.drive(1).count("unhealed")), (0, 1));
    assert!(w.actions.iter().any(|(d, a)| *d == 1 && matches!(a, Action::Report(Report::Unrepaired { block: 5, .. }))));
}

#[test]
fn i8_a_write_during_the_repair_cancels_it() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.drive(1).r.store_mut().corrupt(KEY, 5);
    assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::BadChecksum);
    w.drive(1).run();
    assert_eq!(w.drive(1).write(1, 2, 5, 6), Status::Ok);
    w.settle();
    assert_eq!(w.drive(1).byte(1, 5), Some(6));
    assert_eq!(w.drive(1).count("healed"), 0);
}

/// An answer that is still on its way when the layer goes must not bring one of its blocks back.
#[test]
fn a_repair_that_is_answered_after_its_layer_was_freed_brings_nothing_back() {
    for durable in [false, true] {
        let mut w = World::new();
        w.write(&[1, 2, 3], 1, 1, 5, 5);
        w.stable(&[1, 2, 3], 1, Version::new(1, 1));
        w.drive(1).r.store_mut().corrupt(KEY, 5);
        assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::BadChecksum);
        w.drive(1).event(Event::Control { id: 9, req: Control::FreeLayer { layer: LAYER } });
        if durable {
            w.drive(1).run();
        } else {
            // Met again before the order is durable.
            w.drive(1).event(Event::Control { id: 8, req: Control::Repair { vol: VOL, key: KEY, block: 5 } });
        }
        w.settle();
        assert_eq!((w.drive(1).count("healed"), w.drive(1).count("unhealed")), (0, 0), "{durable}");
        assert!(w.chunk(1, 0).is_empty(), "{durable}");
    }
}

#[test]
fn a_repair_that_is_answered_after_its_block_is_gone_brings_nothing_back() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.stable(&[1, 2, 3], 1, Version::new(1, 1));
    w.drive(1).r.store_mut().corrupt(KEY, 5);
    assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::BadChecksum);
    w.drive(1).run();
    crate::compares::plant(&mut w, 1, 5, None, 0);
    w.settle();
    assert_eq!((w.drive(1).count("healed"), w.drive(1).count("unhealed")), (0, 0));
    assert!(w.chunk(1, 0).is_empty());
}

#[test]
fn a_block_that_no_peer_can_give_is_reported() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    for d in 1..=3 {
        w.drive(d).r.store_mut().corrupt(KEY, 5);
    }
    let done = w.drive(1).control(Control::Repair { vol: VOL, key: KEY, block: 5 });
    assert_eq!(done, drystone_replica::ControlResult::Done);
    w.settle();
    assert!(w.actions.iter().any(|(d, a)| *d == 1 && matches!(a, Action::Report(Report::Unrepaired { block: 5, .. }))));
}

fn asked(rig: &mut Rig) -> usize {
    let asks =
        rig.out.iter().filter(|a| matches!(a, Action::SendDrive { frame, .. } if frame.hdr.kind == MsgType::Copy));
    asks.count()
}

#[test]
fn a_repair_that_found_no_peer_is_tried_again_without_a_busy_deadline() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 5, 5), Status::Ok);
    rig.r.store_mut().corrupt(KEY, 5);
    rig.event(Event::Control { id: 1, req: Control::Repair { vol: VOL, key: KEY, block: 5 } });
    rig.run();
    for peer in [2, 3] {
        rig.event(Event::DriveDown { drive: DriveId(peer) });
    }
    assert!(rig.has(|a| matches!(a, Action::Report(Report::Unrepaired { block: 5, .. }))));
    for _ in 0..3 {
        rig.out.clear();
        let due = rig.r.next_deadline().unwrap();
        assert!(due > rig.now, "the deadline of a waiting repair lies in the past: the shell would spin");
        rig.advance(60_000_000);
        rig.run();
        assert_eq!(asked(&mut rig), 1, "the peer may be back: it is asked again");
        assert!(rig.r.next_deadline().unwrap() > rig.now, "while a repair runs its pause must not be due");
        for peer in [2, 3] {
            rig.event(Event::DriveDown { drive: DriveId(peer) });
        }
    }
}

fn scrubbed(w: &mut World) -> Vec<(u64, u64)> {
    w.actions.clear();
    w.drive(1).event(Event::Control { id: 9, req: Control::Scrub });
    w.settle();
    let done = w.actions.iter().filter_map(|(d, a)| match a {
        Action::Report(Report::ScrubDone { bad, healed, .. }) if *d == 1 => Some((*bad, *healed)),
        _ => None,
    });
    done.collect()
}

#[test]
fn a_scrub_heals_every_block_that_it_finds_and_says_so() {
    let mut w = World::new();
    (0..300).for_each(|block| w.write(&[1, 2, 3], 1, block + 1, block, block as u8));
    (0..300).for_each(|block| w.drive(1).r.store_mut().corrupt(KEY, block));
    w.drive(1).event(Event::Control { id: 8, req: Control::Scrub });
    w.drive(1).run();
    assert!(w.drive(1).r.store().scrub_held, "blocks wait for their turn");
    assert_eq!(scrubbed(&mut w), [(300, 300)]);
    assert!(!w.drive(1).r.store().scrub_held);
    let figures = |w: &mut World| ["bad_found", "healed", "unhealed"].map(|name| w.drive(1).count(name));
    assert_eq!(figures(&mut w), [300, 300, 0]);
    assert_eq!(scrubbed(&mut w), [(0, 0)], "a second scrub finds nothing");
    (0..300).for_each(|block| assert_eq!(w.drive(1).byte(1, block), Some(block as u8)));
}

#[test]
fn what_a_scrub_cannot_heal_is_counted_and_healed_when_a_copy_has_it_again() {
    let mut w = World::new();
    (0..100).for_each(|block| w.write(&[1, 2, 3], 1, block + 1, block, block as u8));
    (0..100).for_each(|block| w.drive(1).r.store_mut().corrupt(KEY, block));
    for d in [2, 3] {
        (0..70).for_each(|block| w.drive(d).r.store_mut().unreadable(KEY, block, true));
    }
    assert_eq!(scrubbed(&mut w), [(100, 30)]);
    let (healed, unhealed) = (w.drive(1).count("healed"), w.drive(1).count("unhealed"));
    assert_eq!((healed, unhealed), (30, 70));
    assert_eq!(w.drive(1).count("bad_found"), 100, "a block that is tried again is the same block");
    // One is written anew, the others can be read again.
    w.write(&[1, 2, 3], 1, 101, 0, 7);
    assert_eq!(w.drive(1).count("unhealed"), 69);
    for d in [2, 3] {
        (0..70).for_each(|block| w.drive(d).r.store_mut().unreadable(KEY, block, false));
    }
    w.drive(1).advance(60_000_000);
    w.settle();
    assert_eq!((w.drive(1).count("healed"), w.drive(1).count("unhealed")), (99, 0));
}

#[test]
fn a_scrub_heals_blocks_of_a_volume_that_nobody_attached_since_the_drive_opened() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    // Copied here, and never sealed here: no ticket tells the placement group.
    w.map(map(2, 2, &[1, 2], &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.map(map(3, 3, &[1, 2], &[joiner(3, 3, 0)]));
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
    w.settle();
    w.map(map(4, 4, &[1, 2, 3], &[]));
    w.completes.clear();
    w.drive(3).r.store_mut().corrupt(KEY, 5);
    w.drive(3).event(Event::Control { id: 9, req: Control::Scrub });
    w.settle();
    assert_eq!(w.drive(3).count("healed"), 1);
}

fn checked(drive: u32) -> Config {
    Config { peer_check: true, open_nonce: 2, ..config(drive) }
}

fn reopened(w: &mut World) {
    let rig = w.drives.remove(&1).unwrap().restart_as(checked(1));
    w.drives.insert(1, rig);
    w.drive(1).map(map(1, 1, &[1, 2, 3], &[]));
}

#[test]
fn an_open_asks_a_peer_before_it_serves() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.stable(&[1, 2, 3], 1, Version::new(1, 1));
    reopened(&mut w);
    assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::Retry);
    w.settle();
    assert_eq!(w.drive(1).count("peer_checks"), 1);
    assert_eq!(w.drive(1).byte(1, 5), Some(5));
}

#[test]
fn p14_a_drive_that_misses_a_stable_version_leaves_and_serves_nothing() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    // A lying cache: drive 1 acked this write and lost it.
    w.write(&[2, 3], 1, 2, 5, 6);
    w.stable(&[2, 3], 1, Version::new(1, 2));
    reopened(&mut w);
    w.settle();
    assert!(w.actions.iter().any(|(d, a)| *d == 1 && matches!(a, Action::LeavePg { why: LeaveWhy::PeerCheck, .. })));
    assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::Retry);
    // Dropped and joined anew, it serves writes again.
    w.map(map(2, 2, &[2, 3], &[]));
    w.map(map(3, 3, &[2, 3], &[joiner(1, 3, 0)]));
    w.drive(1).generations(3, &[]);
    assert_eq!(w.drive(1).write(1, 3, 5, 7), Status::Ok);
}

fn trim(w: &mut World, drives: &[u32], seq: u64, block: u64) {
    for d in drives {
        let hdr = Header { block, count: 1, seq, ..w.drive(*d).hdr(MsgType::Trim, 1) };
        assert_eq!(w.drive(*d).call(Frame::bare(hdr)).hdr.status, Status::Ok);
    }
}

/// Drive 1 is opened again after a trim that these drives have, and that these know to be stable. Returns checks that
/// passed and that failed.
fn reopened_after_trim(has: &[u32], stable: &[u32], pause: u64) -> (u64, u64) {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.write(&[1, 2, 3], 1, 2, 6, 6);
    w.stable(&[1, 2, 3], 1, Version::new(1, 2));
    trim(&mut w, has, 3, 5);
    w.stable(stable, 1, Version::new(1, 3));
    w.drives.values_mut().for_each(|d| d.advance(pause));
    w.settle();
    reopened(&mut w);
    w.settle();
    (w.drive(1).count("peer_checks"), w.drive(1).count("peer_checks_failed"))
}

/// A lying cache: what drive 1 acked was a trim, and its block shows what was there before.
#[test]
fn p14_a_drive_that_lost_a_trim_leaves_whether_the_peers_remember_its_hole_or_not() {
    assert_eq!(reopened_after_trim(&[2, 3], &[2, 3], 1), (0, 1));
    assert_eq!(reopened_after_trim(&[2, 3], &[2, 3], 2_000_000), (0, 1));
    // Whoever has it may have dropped its hole before the others, or after them.
    assert_eq!(reopened_after_trim(&[1, 2, 3], &[1, 2, 3], 2_000_000), (1, 0));
    assert_eq!(reopened_after_trim(&[1, 2, 3], &[2, 3], 2_000_000), (1, 0));
    assert_eq!(reopened_after_trim(&[1, 2, 3], &[1], 2_000_000), (1, 0));
    // Above the stable value it may be on its way to drive 1.
    assert_eq!(reopened_after_trim(&[2, 3], &[], 1), (1, 0));
}

#[test]
fn p14_what_a_peer_has_freed_is_not_lost_here() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.stable(&[1, 2, 3], 1, Version::new(1, 1));
    for d in [2, 3] {
        assert_eq!(w.drive(d).control(Control::FreeLayer { layer: LAYER }), ControlResult::Done);
    }
    reopened(&mut w);
    w.settle();
    assert_eq!((w.drive(1).count("peer_checks"), w.drive(1).count("peer_checks_failed")), (1, 0));
}

#[test]
fn a_cold_start_of_everything_goes_through() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.drives.remove(&2);
    w.drives.remove(&3);
    reopened(&mut w);
    w.settle();
    assert_eq!(w.drive(1).byte(1, 5), Some(5));
}

#[test]
fn a_silent_peer_is_passed_over() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.tap = Some(Box::new(|_, _, _| false));
    reopened(&mut w);
    w.settle();
    assert_eq!(w.drive(1).byte(1, 5), Some(5));
}

#[test]
fn a_peer_check_is_answered_before_any_map_came() {
    let mut rig = Rig::open(config(1), NaiveStore::new(1000));
    let mut meta = Writer::new();
    meta.u32(1).u64(VOL.0).u64(LAYER.0).u64(5).u32(1).u64(1);
    let hdr = rig.hdr(MsgType::PeerCheck, 0);
    let answer = rig.call_from(SERVER, Frame::with_meta(hdr, meta.finish()));
    assert_eq!((answer.hdr.status, answer.meta.as_slice()), (Status::Ok, &[1, 0, 0, 0, 0][..]));
}
