use std::sync::Arc;

use drystone_sequencer::*;
use drystone_types::*;

use crate::replica::Cell;
use crate::world::{pattern, ticket, World, HEAD};

pub fn phantom(w: &mut World, drive: u32, block: u64, seq: u64, kind: u8) {
    let data = if kind == 1 { Buf::copy_from(&pattern(seq as u8, 4096)) } else { Buf::empty() };
    let pg = PgId { pool: PoolId(1), pg: 0 };
    w.rep(drive).cells.insert((HEAD, block), Cell { version: Version::new(1, seq), kind, data, pg });
}

/// A crashed generation 1 left writes on some members; generation 2 is about to attach.
pub fn crashed() -> World {
    let mut w = World::idle(1, &ticket(2), Config::default());
    for d in 1..=3 {
        w.rep(d).sealed = Gen(1);
    }
    w
}

#[test]
fn a4_the_highest_version_anywhere_is_rolled_to_all_with_its_own_version() {
    let mut w = crashed();
    phantom(&mut w, 1, 5, 10, 1);
    phantom(&mut w, 2, 5, 12, 1);
    phantom(&mut w, 3, 6, 11, 2);
    phantom(&mut w, 3, 7, 13, 3);
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    for d in 1..=3 {
        let cells: Vec<_> = w.rep(d).cells.iter().map(|(k, c)| (k.1, c.version.seq, c.kind)).collect();
        assert_eq!(cells, vec![(5, 12, 1), (6, 11, 2), (7, 13, 3)], "drive {d}");
    }
    assert_eq!(w.read(5 * 4096, 4096), pattern(12, 4096));
    assert_eq!(w.seq.stats().rolls, 3);
}

#[test]
fn b3_before_a5_every_frame_carries_stable_zero_and_then_recovered_is_sent() {
    let mut w = crashed();
    phantom(&mut w, 1, 5, 10, 1);
    w.activate = false;
    w.attach();
    assert_eq!(w.seq.state(), State::Activating);
    for a in &w.log {
        if let Action::Send { frame, .. } = a {
            assert_eq!(frame.hdr.stable, Version::ZERO);
            assert_ne!(frame.hdr.kind, MsgType::Recovered);
        }
    }
    w.step(Event::Activated(Ok(())));
    assert_eq!(w.sent(MsgType::Recovered).len(), 3);
    assert_eq!(w.rep(2).stable, Version::new(2, 0));
}

#[test]
fn a2_every_insync_and_joining_drive_of_every_pool_of_the_ticket_is_sealed_once() {
    let mut t = ticket(1);
    t.parents = vec![ParentRef {
        lineage: VolumeId(3),
        layer: LayerId(30),
        size: 1 << 20,
        pool: PoolId(2),
        ..ParentRef::default()
    }];
    let mut w = World::idle(4, &t, Config::default());
    w.change(&[1, 2], &[3], &[1, 2, 3]);
    w.attach();
    let mut sealed: Vec<u32> = w.sent(MsgType::Seal).iter().map(|s| s.0).collect();
    sealed.sort_unstable();
    assert_eq!(sealed, vec![1, 2, 3]);
    assert_eq!(w.seq.state(), State::Active);
}

#[test]
fn a2_a_silent_drive_is_reported_and_the_attach_goes_on_after_its_drop() {
    let mut w = crashed();
    w.hold(3);
    w.attach();
    w.rep(3).refuse = vec![(MsgType::Seal, Status::Retry); 1000];
    w.pass(300_000);
    assert_eq!(w.reports(), vec![(3, ReportKind::Stall)]);
    assert_eq!(w.seq.state(), State::Sealing);
    w.change(&[1, 2], &[], &[1, 2]);
    w.push_map();
    assert_eq!(w.seq.state(), State::Active);
}

#[test]
fn a3_seal_replies_spanning_an_epoch_change_do_not_count() {
    let mut w = crashed();
    w.hold(3);
    w.attach();
    let seals = w.sent(MsgType::Seal).len();
    w.change(&[1, 2, 3], &[], &[1, 2, 3]);
    // The replies of 1 and 2 were of epoch 1: void, although nothing about them changed.
    w.push_map();
    assert_eq!(w.seq.stats().seals_discarded, 2);
    assert_eq!(w.sent(MsgType::Seal).len(), seals + 2);
    w.release(3);
    assert_eq!(w.seq.state(), State::Active);
}

#[test]
fn a3_a_reply_of_another_epoch_than_the_maps_is_asked_for_again() {
    let mut w = crashed();
    w.change(&[1, 2, 3], &[], &[1, 2]);
    w.attach();
    assert_eq!(w.seq.state(), State::Sealing);
    let map = w.map.clone();
    w.rep(3).map = map;
    w.pass(100_000);
    assert_eq!(w.seq.state(), State::Active);
}

#[test]
fn p15_one_pg_that_changes_does_not_send_the_others_back() {
    let mut w = World::idle(8, &ticket(1), Config::default());
    w.activate = false;
    w.attach();
    assert_eq!(w.seq.state(), State::Activating);
    w.map.revision.0 += 1;
    w.map.pools[0].shards[0].pgs[3].epoch.0 += 1;
    for d in 1..=3 {
        let map = w.map.clone();
        w.rep(d).map = map;
    }
    let before = w.sent(MsgType::Seal).len();
    w.push_map();
    assert_eq!(w.sent(MsgType::Seal).len(), before + 3);
    assert_eq!(w.seq.stats().seals_discarded, 3);
    assert_eq!(w.seq.state(), State::Activating);
}

#[test]
fn p15_a_superseded_attacher_never_becomes_active() {
    let mut w = World::idle(1, &ticket(1), Config::default());
    w.activate = false;
    w.attach();
    let io = w.write(0, &pattern(1, 4096));
    w.step(Event::Activated(Err(ActivateError::Superseded)));
    assert_eq!(w.seq.state(), State::Fenced);
    assert_eq!(w.done[&io], Err(IoError::Unissued));
}

#[test]
fn p11_an_unstable_write_held_only_by_a_joiner_is_fetched_from_it() {
    let mut w = crashed();
    w.change(&[1, 2], &[3], &[1, 2, 3]);
    phantom(&mut w, 3, 5, 10, 1);
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!(w.rep(1).cells.len(), 1);
}

#[test]
fn a4_a_member_that_gave_a_block_up_gets_the_bytes_that_another_one_still_has() {
    let mut w = crashed();
    phantom(&mut w, 1, 5, 10, 4);
    phantom(&mut w, 2, 5, 10, 1);
    phantom(&mut w, 3, 5, 10, 4);
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    for drive in 1..=3 {
        assert_eq!(w.rep(drive).cells[&(HEAD, 5)].kind, 1, "drive {drive}");
    }
    assert_eq!(w.seq.stats().rolls_bad, 0);
}

#[test]
fn a4_rolls_are_allowed_below_min_insync() {
    let mut w = crashed();
    w.change(&[1], &[2], &[1, 2]);
    phantom(&mut w, 1, 5, 10, 1);
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!(w.rep(2).cells.len(), 1);
}

#[test]
fn a_crash_in_rolling_is_repeated_by_the_next_attacher() {
    let mut w = crashed();
    phantom(&mut w, 1, 5, 10, 1);
    w.rep(3).refuse = vec![(MsgType::Write, Status::Retry)];
    w.attach();
    assert_eq!(w.seq.state(), State::Rolling);
    w.successor(3);
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    let versions: Vec<_> = (1..=3).map(|d| w.rep(d).cells[&(HEAD, 5)].version).collect();
    assert_eq!(versions, vec![Version::new(1, 10); 3]);
}

#[test]
fn no_seal_follows_after_active_but_a_new_joiner_gets_the_ticket() {
    let mut w = World::attached();
    let seals = w.sent(MsgType::Seal).len();
    w.change(&[1, 2, 3], &[4], &[1, 2, 3, 4]);
    w.rep(4).sealed = Gen(1);
    w.push_map();
    w.up(4);
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.ok(tag));
    assert_eq!(w.sent(MsgType::Seal).len(), seals);
}

#[test]
fn l4_requests_before_active_wait_and_a_pg_without_insync_copy_is_never_skipped() {
    let mut w = crashed();
    let tag = w.write(0, &pattern(1, 4096));
    w.change(&[], &[], &[1, 2, 3]);
    w.attach();
    w.pass(5_000_000);
    assert_eq!(w.seq.state(), State::Sealing);
    w.change(&[1, 2, 3], &[], &[1, 2, 3]);
    w.push_map();
    assert_eq!(w.seq.state(), State::Active);
    assert!(w.ok(tag));
}

#[test]
fn a_shared_read_only_attachment_skips_recovery_and_never_writes() {
    let mut t = ticket(0);
    t.mode = AttachMode::ReadOnly;
    let cfg = Config { recover: false, ..Config::default() };
    let mut w = World::idle(1, &t, cfg);
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    assert!(w.sent(MsgType::Seal).is_empty());
    let tag = w.write(0, &pattern(1, 4096));
    assert_eq!(w.done[&tag], Err(IoError::ReadOnly));
    let read = w.io(Io::Read { offset: 0, len: 4096 });
    w.pass(100_000);
    assert_eq!(w.bytes(read), vec![0; 4096]);
}

#[test]
fn the_first_map_is_asked_for_and_an_older_map_changes_nothing() {
    let mut w = World::idle(1, &ticket(1), Config::default());
    w.map.revision = Rev(10);
    let old = w.map.clone();
    w.attach();
    w.change(&[1, 2], &[], &[1, 2]);
    w.push_map();
    w.step(Event::Map(Arc::new(old)));
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.ok(tag) && w.rep(3).cells.is_empty());
}
