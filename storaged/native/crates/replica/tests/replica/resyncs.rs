//! Resync: what a joiner ends with, whatever happens on the way.

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Action, Event, LeaveWhy};
use drystone_store::testing::NaiveStore;
use drystone_types::*;

const CHUNK: u64 = 1024;

/// Ten blocks in three chunks on all drives, stable; then drive 3 is out in epoch 2.
fn dropped() -> World {
    let mut w = World::new();
    for seq in 1..=10 {
        w.write(&[1, 2, 3], 1, seq, (seq % 3) * CHUNK + seq, seq as u8);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, 10));
    w.map(map(2, 2, &[1, 2], &[]));
    w
}

#[test]
fn a_blank_joiner_ends_with_everything() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.rejoin(2, 0);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..3);
    w.map(map(4, 4, &[1, 2, 3], &[]));
    w.drive(3).seal(2);
    assert_eq!(w.drive(3).byte(2, CHUNK + 1), Some(1));
}

#[test]
fn only_chunks_changed_since_e0_on_either_side_are_compared() {
    let mut w = dropped();
    w.write(&[1, 2], 1, 11, 2 * CHUNK, 11);
    w.rejoin(2, 1);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    // Every chunk was stamped in epoch 1 = e0, so all three are compared once.
    let before = w.drive(3).count("resync_chunks");
    // What is above stable at an adoption is stamped anew; nothing is.
    w.stable(&[1, 2, 3], 1, Version::new(1, 11));
    w.map(map(4, 4, &[1, 2, 3], &[]));
    w.map(map(5, 5, &[1, 2], &[]));
    w.write(&[1, 2], 1, 12, CHUNK, 12);
    w.completes.clear();
    w.rejoin(5, 4);
    w.settle();
    assert_eq!(w.completes, [(3, 6)]);
    assert_eq!(w.drive(3).count("resync_chunks") - before, 1);
    w.assert_equal(1, 3, 0..3);
}

#[test]
fn the_source_wins_over_a_phantom_with_a_higher_version() {
    let mut w = dropped();
    w.drive(3).map(map(1, 1, &[1, 2, 3], &[]));
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 0, 1);
    w.write(&[3], 1, 50, 0, 50);
    w.write(&[3], 1, 51, 7, 51);
    w.map(map(2, 2, &[1, 2], &[]));
    w.rejoin(2, 1);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..1);
    assert_eq!(w.drive(3).count("resync_forgotten"), 1);
    w.map(map(4, 4, &[1, 2, 3], &[]));
    assert_eq!([w.drive(3).byte(1, 0), w.drive(3).byte(1, 7)], [Some(1), None]);
}

#[test]
fn a_block_written_directly_since_the_join_is_kept() {
    let mut w = dropped();
    w.rejoin(2, 0);
    // The joiner takes the write before its chunk is compared, the source only afterwards.
    assert_eq!(w.drive(3).write(1, 11, 1, 11), Status::Ok);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert!(w.drive(3).count("resync_kept") > 0);
    w.write(&[1, 2], 1, 11, 1, 11);
    w.assert_equal(1, 3, 0..3);
}

#[test]
fn a_write_between_digest_and_copy_is_kept() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.silent();
    w.rejoin(2, 0);
    loop {
        w.run_devices();
        w.collect();
        if w.wire.iter().any(|(_, _, f, answer)| *answer && f.hdr.kind == MsgType::Copy) {
            break;
        }
        assert!(w.deliver());
    }
    let layer = w.drive(3).layer_frame(1, &ticket(1, 1));
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
    assert_eq!(w.drive(3).call(layer).hdr.status, Status::Ok);
    for seq in 1..=10 {
        w.write(&[1, 2, 3], 1, 20 + seq, (seq % 3) * CHUNK + seq, 77);
    }
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..3);
}

#[test]
fn p4_a_copied_unstable_block_is_reported_at_the_next_attach() {
    let mut w = World::new();
    w.map(map(2, 2, &[1, 2], &[]));
    w.write(&[1, 2], 1, 5, 3, 5);
    w.rejoin(2, 1);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert_eq!(w.drive(3).seal(2).entries, [(LAYER.0, 3, 1, 5, 1)]);
}

#[test]
fn a_trim_while_the_drive_was_out_is_copied_as_a_hole() {
    let mut w = dropped();
    for d in [1, 2] {
        let rig = w.drive(d);
        let hdr = Header { block: CHUNK + 1, count: 1, seq: 11, ..rig.hdr(MsgType::Trim, 1) };
        assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    }
    w.stable(&[1, 2], 1, Version::new(1, 11));
    w.rejoin(2, 1);
    w.settle();
    w.map(map(4, 4, &[1, 2, 3], &[]));
    assert_eq!(w.drive(3).byte(1, CHUNK + 1), None);
}

#[test]
fn b6_a_power_cut_of_the_joiner_begins_the_copy_again() {
    let mut w = dropped();
    w.rejoin(2, 0);
    // This direct write is admitted but never becomes durable.
    let frame = w.drive(3).write_frame(1, 11, 1, 1, 11);
    w.drive(3).send(frame);
    for _ in 0..3 {
        w.deliver();
    }
    w.restart(3, 2);
    w.drive(3).map(map(3, 3, &[1, 2], &[joiner(3, 3, 0)]));
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..3);
}

#[test]
fn a_copy_is_complete_only_when_it_is_durable() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.silent();
    w.rejoin(2, 0);
    // The joiner's writes wait; its reads of an empty store need no device.
    for _ in 0..200 {
        w.drive(1).run();
        w.drive(2).run();
        w.deliver();
    }
    assert!(w.drive(3).count("resync_blocks") >= 10);
    assert!(w.completes.is_empty());
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
}

#[test]
fn an_epoch_that_moves_during_the_copy_is_the_one_it_completes_in() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.rejoin(2, 0);
    for _ in 0..6 {
        w.run_devices();
        w.deliver();
    }
    w.map(map(4, 4, &[2], &[joiner(3, 3, 0)]));
    w.settle();
    assert_eq!(w.completes, [(3, 4)]);
    w.assert_equal(2, 3, 0..3);
}

#[test]
fn a_finished_copy_is_proven_again_when_the_epoch_moves_before_the_promotion() {
    let mut w = dropped();
    w.rejoin(2, 1);
    w.settle();
    w.completes.clear();
    w.map(map(4, 4, &[1], &[joiner(3, 3, 1)]));
    w.settle();
    assert_eq!(w.completes, [(3, 4)]);
    w.completes.clear();
    w.drive(3).advance(1_100_000);
    w.collect();
    assert_eq!(w.completes, [(3, 4)], "told again while the promotion has not come");
}

#[test]
fn a_source_that_dies_is_replaced() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.rejoin(2, 0);
    for _ in 0..4 {
        w.run_devices();
        w.deliver();
    }
    w.drives.remove(&1);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(2, 3, 0..3);
    assert!(w.drive(3).count("resync_source_changes") > 0);
}

#[test]
fn bytes_that_do_not_match_their_checksum_are_fetched_from_another_source() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.tap = Some(Box::new(|from, _, frame| {
        if from == 1 && frame.hdr.kind == MsgType::Copy && frame.hdr.is_resp() && !frame.data.is_empty() {
            let mut bytes = frame.data.as_slice().to_vec();
            bytes[5] ^= 1;
            frame.data = Buf::copy_from(&bytes);
        }
        true
    }));
    w.rejoin(2, 0);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(2, 3, 0..3);
}

#[test]
fn a_lost_answer_is_asked_for_again() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    let mut n = 0;
    w.tap = Some(Box::new(move |_, _, frame| {
        n += 1;
        !(frame.hdr.is_resp() && n % 5 == 0)
    }));
    w.rejoin(2, 0);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..3);
}

#[test]
fn a_joiner_without_space_leaves() {
    let mut w = World::new();
    for seq in 1..=200 {
        w.write(&[1, 2, 3], 1, seq, (seq % 15) * CHUNK + seq, 1);
    }
    w.map(map(2, 2, &[1, 2], &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(60)));
    w.rejoin(2, 0);
    w.settle();
    assert!(w.completes.is_empty());
    assert!(w.actions.iter().any(|(d, a)| *d == 3 && matches!(a, Action::LeavePg { why: LeaveWhy::NoSpace, .. })));
}

#[test]
fn resync_requests_in_flight_are_few_while_clients_are_active() {
    let mut w = World::new();
    for seq in 1..=40 {
        w.write(&[1, 2, 3], 1, seq, (seq % 15) * CHUNK + seq, 1);
    }
    w.map(map(2, 2, &[1, 2], &[]));
    w.rejoin(2, 0);
    let mut most = 0;
    for i in 0..400 {
        if i % 10 == 0 {
            let hdr = w.drive(3).hdr(MsgType::Ping, 1);
            w.drive(3).send(Frame::bare(hdr));
        }
        w.run_devices();
        w.collect();
        most = most.max(w.wire.iter().filter(|(from, _, _, answer)| *from == 3 && !answer).count());
        w.deliver();
    }
    assert!(most > 0 && most <= drystone_replica::limits::RESYNC_BUSY, "{most}");
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
}

#[test]
fn digest_and_copy_are_answered_only_in_sync_in_exactly_that_epoch() {
    let mut w = dropped();
    w.map(map(3, 3, &[1], &[joiner(2, 3, 0)]));
    let ask = |rig: &mut Rig, epoch: u32| {
        let mut meta = Writer::new();
        meta.u8(0).u32(0).u64(0).u64(0).u8(0);
        let hdr = Header { pg_epoch: Epoch(epoch), ..rig.hdr(MsgType::Digest, 1) };
        rig.call_from(drive_peer(4), Frame::with_meta(hdr, meta.finish())).hdr.status
    };
    assert_eq!(ask(w.drive(1), 3), Status::Ok);
    assert_eq!(ask(w.drive(1), 2), Status::NackEpoch);
    w.drive(2).generations(3, &[]);
    assert_eq!(ask(w.drive(2), 3), Status::NackEpoch);
    let mut hdr = w.drive(1).hdr(MsgType::Digest, 1);
    hdr.request = 7;
    assert_eq!(w.drive(1).call(Frame::bare(hdr)).hdr.status, Status::Denied, "clients may not");
}

#[test]
fn malformed_resync_requests_are_invalid() {
    let mut w = World::new();
    for meta in [vec![], vec![9], vec![0; 3], vec![255; 40]] {
        for kind in [MsgType::Digest, MsgType::Copy, MsgType::Scrub, MsgType::PeerCheck] {
            let hdr = w.drive(1).hdr(kind, 1);
            let answer = w.drive(1).call_from(SERVER, Frame::with_meta(hdr, meta.clone()));
            assert_eq!(answer.hdr.status, Status::Invalid, "{kind:?} {meta:?}");
        }
    }
}

#[test]
fn a_digest_list_that_goes_back_is_not_believed() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.tap = Some(Box::new(|from, _, frame| {
        if from == 1
            && frame.hdr.kind == MsgType::Digest
            && frame.hdr.is_resp()
            && frame.meta.len() > 20
            && frame.meta[0] == 0
        {
            let mut meta = Writer::new();
            meta.u8(1).u32(2).u64(9).u64(9).u64(1).u64(1);
            frame.meta = meta.finish();
        }
        true
    }));
    w.rejoin(2, 0);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(2, 3, 0..3);
}

#[test]
fn a_map_that_drops_the_joiner_ends_its_copy() {
    let mut w = dropped();
    w.rejoin(2, 0);
    w.run_devices();
    w.deliver();
    w.map(map(4, 4, &[1, 2], &[]));
    w.settle();
    assert!(w.completes.is_empty());
    w.drive(3).event(Event::Tick);
}

/// A drive of few slots that is in sync.
fn small(slots: u64) -> Rig {
    let mut rig = Rig::open(config(3), NaiveStore::new(slots));
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    rig.seal(1);
    rig
}

#[test]
fn a_full_joiner_takes_newer_bytes_of_what_it_has_and_new_ones_while_there_is_room() {
    let mut w = World::new();
    w.drives.insert(3, small(560));
    for d in [1, 2, 3] {
        let frame = w.drive(d).write_frame(1, 1, 20, 200, 1);
        assert_eq!(w.drive(d).call(frame).hdr.status, Status::Ok);
    }
    w.map(map(2, 2, &[1, 2], &[]));
    for d in [1, 2] {
        // The first 20 are new there: of the same run, but only they need room, and they have it.
        let frame = w.drive(d).write_frame(1, 2, 0, 220, 2);
        assert_eq!(w.drive(d).call(frame).hdr.status, Status::Ok);
    }
    w.rejoin(2, 1);
    w.settle();
    assert_eq!(w.completes, [(3, 3)], "a copy in the place of an older one needs no new space");
    w.assert_equal(1, 3, 0..1);
}

#[test]
fn i9_a_chunk_whose_copy_met_no_space_stays_void() {
    let mut w = World::new();
    let mut small = small(700);
    // A write that only this drive has, and that nobody was told of.
    assert_eq!(small.write(1, 900, 300, 9), Status::Ok);
    w.drives.insert(3, small);
    for (seq, block, count) in [(1, 0, 256), (2, 256, 256)] {
        for d in [1, 2] {
            let frame = w.drive(d).write_frame(1, seq, block, count, 1);
            assert_eq!(w.drive(d).call(frame).hdr.status, Status::Ok);
        }
    }
    w.map(map(2, 2, &[1, 2], &[]));
    w.rejoin(2, 1);
    w.settle();
    assert!(w.completes.is_empty());
    let leaves = |a: &(u32, Action)| a.0 == 3 && matches!(a.1, Action::LeavePg { why: LeaveWhy::NoSpace, .. });
    assert!(w.actions.iter().filter(|a| leaves(a)).count() > 1, "asked again until it is dropped");
    let listed = w.drive(3).seal(2).entries;
    assert!(listed.iter().all(|e| e.1 != 300), "a void block is reported");
}

#[test]
fn what_is_left_to_copy_is_told_until_the_copy_is_complete() {
    let mut w = dropped();
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    assert_eq!(w.drive(3).r.resync_bytes_left(), 0);
    w.rejoin(2, 0);
    assert!(w.drive(3).r.resync_bytes_left() > 0);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert_eq!(w.drive(3).r.resync_bytes_left(), 0);
}
