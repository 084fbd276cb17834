//! Blocks that a copy gave up as BAD: what gives them their bytes back, and what must not make more of them.

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Action, Control, Event, Report, StuckWhy};
use drystone_store::api::{AppendError, Record};
use drystone_store::testing::{Hidden, NaiveStore};
use drystone_types::*;

const KEY: ObjKey = ObjKey { layer: LAYER, chunk: 0 };

/// Blocks 0 to `n` of chunk 0 on all drives, stable up to `stable`; drive 3 is blank and copies from drive 1, which
/// has lost `rotten`.
fn copied_without(n: u64, stable: u64, rotten: u16) -> World {
    let mut w = World::new();
    for seq in 1..=n {
        w.write(&[1, 2, 3], 1, seq, seq - 1, seq as u8);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, stable));
    w.map(map(2, 2, &[1], &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.drive(1).r.store_mut().corrupt(KEY, rotten);
    w.map(map(3, 3, &[1], &[joiner(3, 3, 0)]));
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.completes.clear();
    w
}

#[test]
fn a_write_that_is_sent_again_replaces_a_bad_block_of_its_own_version() {
    let mut w = copied_without(10, 9, 9);
    let layer = w.drive(3).layer_frame(1, &ticket(1, 1));
    assert_eq!(w.drive(3).call(layer).hdr.status, Status::Ok);
    assert_eq!(w.drive(1).write(1, 10, 9, 10), Status::Ok);
    assert_eq!(w.drive(3).write(1, 10, 9, 10), Status::Ok);
    w.map(map(4, 4, &[1, 3], &[]));
    assert_eq!(w.drive(3).byte(1, 9), Some(10), "acked with its bytes");
}

#[test]
fn a_roll_replaces_a_bad_block_of_its_own_version() {
    let mut w = copied_without(1, 0, 0);
    w.map(map(4, 4, &[1, 3], &[]));
    w.drive(3).seal(2);
    let frame = w.drive(3).roll(2, Version::new(1, 1), 0, 1);
    assert_eq!(w.drive(3).call(frame).hdr.status, Status::Ok);
    assert_eq!(w.drive(3).byte(2, 0), Some(1));
}

/// Like `copied_without`, not settled: what drive 1 has of `rotten` does not match, `unreadable` it cannot read.
fn copying(n: u64, rotten: impl Iterator<Item = u16>, unreadable: impl Iterator<Item = u16>) -> World {
    let mut w = World::new();
    for seq in 1..=n {
        w.write(&[1, 2, 3], 1, seq, seq - 1, seq as u8);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, n));
    w.map(map(2, 2, &[1], &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    rotten.for_each(|b| w.drive(1).r.store_mut().corrupt(KEY, b));
    unreadable.for_each(|b| w.drive(1).r.store_mut().unreadable(KEY, b, true));
    w.map(map(3, 3, &[1], &[joiner(3, 3, 0)]));
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
    w
}

/// What the operator heard of drive 3's copy: blocks and reason, or that it goes on.
fn stuck(w: &World) -> Vec<Option<(u64, StuckWhy)>> {
    let told = |(d, a): &(u32, Action)| match a {
        Action::Report(Report::CopyStuck { pg, sources, blocks, why }) if *d == 3 => {
            assert_eq!((*pg, sources.as_slice()), (PG, [DriveId(1)].as_slice()));
            Some(Some((*blocks, *why)))
        }
        Action::Report(Report::CopyFreed { .. }) if *d == 3 => Some(None),
        _ => None,
    };
    w.actions.iter().filter_map(told).collect()
}

fn lost_count(w: &World) -> usize {
    let lost = |(d, a): &(u32, Action)| *d == 3 && matches!(a, Action::Report(Report::Unrepaired { .. }));
    w.actions.iter().filter(|x| lost(x)).count()
}

#[test]
fn a_source_whose_device_cannot_be_read_is_asked_until_it_can_and_nothing_becomes_bad() {
    let mut w = copying(10, 0..0, 0..10);
    for _ in 0..20 {
        w.settle();
    }
    assert!(w.completes.is_empty());
    assert_eq!((lost_count(&w), w.drive(3).count("resync_bad_blocks")), (0, 0));
    let asked = w.drive(1).count("copies_served");
    assert!(asked < 60, "{asked} requests in two minutes");
    assert_eq!(stuck(&w).first(), Some(&Some((10, StuckWhy::Unreadable))), "the operator hears of it");
    (0..10).for_each(|b| w.drive(1).r.store_mut().unreadable(KEY, b, false));
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..1);
}

#[test]
fn a_block_is_not_lost_before_seconds_have_passed_between_two_looks_at_it() {
    let mut w = copying(10, 4..5, 0..0);
    let began = w.drive(3).now;
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert!(w.drive(3).now - began >= 5_000_000);
    assert_eq!(w.drive(3).count("resync_bad_blocks"), 1);
}

#[test]
fn a_copy_that_would_give_up_many_blocks_does_not_complete_and_says_so() {
    let mut w = copying(100, 0..70, 0..0);
    for _ in 0..4 {
        w.settle();
    }
    assert!(w.completes.is_empty());
    assert_eq!((lost_count(&w), w.drive(3).count("resync_bad_blocks")), (70, 0));
    assert_eq!(w.drive(3).count("copies_held"), 1);
    assert_eq!(stuck(&w), [Some((70, StuckWhy::Lost))]);
    for _ in 0..12 {
        w.settle();
    }
    assert!(w.drive(3).count("copies_held") > 1 && stuck(&w).len() > 1, "said again while it lasts");
    assert_eq!(lost_count(&w), 70, "its blocks are named once");
    let map_with_both = map(4, 4, &[1, 2], &[joiner(3, 3, 0)]);
    w.map(map_with_both);
    for _ in 0..12 {
        w.settle();
    }
    assert_eq!(w.completes, [(3, 4)], "it begins again by itself, and another member has the bytes");
    assert_eq!(stuck(&w).last(), Some(&None), "and it is said that it is over");
    w.assert_equal(2, 3, 0..1);
}

#[test]
fn a_joiner_keeps_its_own_bytes_of_the_version_that_everybody_lost() {
    let mut w = World::new();
    for seq in 1..=10 {
        w.write(&[1, 2, 3], 1, seq, seq - 1, seq as u8);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, 10));
    w.map(map(2, 2, &[1], &[]));
    w.drive(1).r.store_mut().corrupt(KEY, 4);
    w.map(map(3, 3, &[1], &[joiner(3, 3, 1)]));
    w.drive(3).generations(3, &[]);
    w.settle();
    w.map(map(4, 4, &[1, 3], &[]));
    assert_eq!(w.drive(3).byte(1, 4), Some(5));
}

#[test]
fn a_bad_block_of_a_copy_is_healed_without_a_reader_once_a_peer_has_it() {
    let mut w = copied_without(10, 10, 4);
    w.map(map(4, 4, &[3, 1], &[]));
    w.map(map(5, 5, &[3, 1], &[joiner(2, 5, 1)]));
    w.drive(2).generations(5, &[]);
    w.settle();
    assert_eq!(w.completes, [(2, 5)]);
    w.map(map(6, 6, &[3, 1, 2], &[]));
    assert_eq!(w.drive(2).byte(1, 4), Some(5), "drive 2 has the bytes");
    for _ in 0..400 {
        w.completes.clear();
        w.drives.values_mut().for_each(|d| d.advance(1_000_000));
        w.run_devices();
        while w.deliver() {
            w.run_devices();
        }
    }
    assert_eq!([1, 3].map(|d| w.drive(d).count("healed")), [1, 1], "after 400 s beside a good copy");
}

fn copy_ask(rig: &mut Rig, from: u32) {
    let mut meta = Writer::new();
    meta.u32(1).u16(1).u16(1);
    let hdr = Header { count: 1, flags: Flags::COPY, ..rig.hdr(MsgType::Copy, 1) };
    rig.send_from(drive_peer(from), Frame::with_meta(hdr, meta.finish()));
}

/// A source with a client, whose device holds back: two requests are in work, the rest waits.
fn busy_source(asks: u32) -> Rig {
    let mut rig = Rig::active(1);
    for seq in 1..=4 {
        assert_eq!(rig.write(1, seq, seq, 1), Status::Ok);
    }
    (0..asks).for_each(|n| copy_ask(&mut rig, 2 + n % 2));
    rig.out.clear();
    rig
}

#[test]
fn a_source_does_not_work_on_requests_that_their_asker_has_given_up() {
    let mut rig = busy_source(20);
    rig.now += 10_000_000;
    let ping = Frame::bare(rig.hdr(MsgType::Ping, 1));
    rig.send(ping);
    let before = rig.count("copies_served");
    rig.run();
    let late = rig.count("copies_served") - before;
    assert!(late <= 2, "{late} copies read and sent 10 s after they were asked for");
}

#[test]
fn a_source_does_not_work_on_requests_of_a_peer_that_is_gone() {
    let mut rig = busy_source(20);
    rig.event(Event::PeerGone(drive_peer(3)));
    rig.run();
    let answers = |to: u32| {
        let to = drive_peer(to);
        rig.out.iter().filter(|a| matches!(a, Action::Send { peer, .. } if *peer == to)).count()
    };
    assert_eq!(answers(2), 10);
    assert!(answers(3) <= 1, "{:?}", rig.out);
}

#[test]
fn a_scrub_has_bad_blocks_healed_too() {
    let mut w = copied_without(10, 10, 4);
    w.map(map(4, 4, &[3, 1], &[]));
    let rig = w.drives.remove(&3).unwrap();
    let mut rig = rig.restart(2);
    rig.map(map(4, 4, &[3, 1], &[]));
    rig.event(Event::Control { id: 9, req: Control::Scrub });
    rig.run();
    rig.event(Event::DriveDown { drive: DriveId(1) });
    let done = |a: &Action| matches!(a, Action::Report(Report::ScrubDone { bad: 1, healed: 0, .. }));
    assert!(!rig.has(done), "it is tried once more");
    rig.advance(1_000_000);
    rig.run();
    rig.event(Event::DriveDown { drive: DriveId(1) });
    assert!(rig.has(done), "{:?}", rig.out);
}

#[test]
fn what_a_source_knows_no_version_of_is_copied_from_a_member_that_does() {
    let mut w = World::new();
    for seq in 1..=4 {
        w.write(&[1, 2, 3], 1, seq, seq - 1, seq as u8);
    }
    for d in [1, 2, 3] {
        let hdr = Header { block: 3, count: 1, seq: 5, ..w.drive(d).hdr(MsgType::Zero, 1) };
        assert_eq!(w.drive(d).call(Frame::bare(hdr)).hdr.status, Status::Ok);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, 5));
    w.map(map(2, 2, &[1, 2], &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    // The header of data whose checksum is in memory, and that of zeros.
    [1, 3].iter().for_each(|b| w.drive(1).r.store_mut().hide_header(KEY, *b, Hidden::Version));
    w.map(map(3, 3, &[1, 2], &[joiner(3, 3, 0)]));
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
    w.settle();
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(2, 3, 0..1);
}

#[test]
fn an_older_copy_does_not_stand_in_for_a_stable_block_that_its_source_lost() {
    let mut w = World::new();
    for seq in 1..=4 {
        w.write(&[1, 2, 3], 1, seq, seq - 1, seq as u8);
    }
    // Drive 2 has an older version of block 2 in place of the stable one, and nothing of block 9.
    w.write(&[1], 1, 5, 2, 55);
    w.write(&[1], 1, 6, 9, 66);
    w.stable(&[1, 2, 3], 1, Version::new(1, 6));
    w.map(map(2, 2, &[1, 2], &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    [2, 9].iter().for_each(|b| w.drive(1).r.store_mut().corrupt(KEY, *b));
    w.map(map(3, 3, &[1, 2], &[joiner(3, 3, 0)]));
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
    // Drive 3 learns the stable value from the volume itself.
    let layer = w.drive(3).layer_frame(1, &ticket(1, 1));
    assert_eq!(w.drive(3).call(layer).hdr.status, Status::Ok);
    assert_eq!(w.drive(3).stable(1, Version::new(1, 6)).hdr.status, Status::Ok);
    w.settle();
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.map(map(4, 4, &[1, 2, 3], &[]));
    w.drive(3).seal(2);
    for block in [2, 9] {
        assert_eq!(w.drive(3).read(2, block).hdr.status, Status::Eio, "block {block} is lost, not old or absent");
    }
}

/// What a drive's thread does: its store refuses everything once the stop is under way, and every turn still flushes.
#[test]
fn a_clean_stop_is_not_reported_as_a_failed_drive() {
    fn any(_: &Record) -> bool {
        true
    }
    let mut rig = Rig::active(1);
    rig.event(Event::Control { id: 0, req: Control::Shutdown });
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    let hdr = Header { stable: Version::new(1, 1), ..rig.hdr(MsgType::Stable, 1) };
    rig.send(Frame::bare(hdr));
    rig.run();
    assert!(rig.has(|a| matches!(a, Action::ControlDone { id: 0, .. })));
    rig.r.store_mut().refuse(Some((any, AppendError::Failed)));
    rig.now += 1_100_000;
    rig.flush();
    assert!(!rig.has(|a| matches!(a, Action::Report(Report::DriveFailed(_)))), "{:?}", rig.out);
}
