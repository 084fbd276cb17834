//! R4, R5, R6, R6b, credits.

use crate::rig::*;
use drystone_store::api::ObjectStore;
use drystone_types::*;

#[test]
fn r4_an_unknown_layer_or_size_asks_for_the_ticket() {
    let mut rig = Rig::active(1);
    let mut frame = rig.write_frame(1, 1, 0, 1, 1);
    frame.hdr.layer = LayerId(71);
    assert_eq!(rig.call(frame).hdr.status, Status::NeedTicket);
    let frame = rig.write_frame(1, 1, 64 << 8, 1, 1);
    assert_eq!(rig.call(frame).hdr.status, Status::NeedTicket);
    let mut newer = ticket(1, 1);
    newer.serial = 2;
    newer.size = 128 << 20;
    newer.chain.insert(0, (LayerId(71), Version::ZERO));
    let layer = rig.layer_frame(1, &newer);
    assert_eq!(rig.call(layer).hdr.status, Status::Ok);
    let mut frame = rig.write_frame(1, 1, 64 << 8, 1, 1);
    frame.hdr.layer = LayerId(71);
    assert_eq!(rig.call(frame).hdr.status, Status::Ok);
}

#[test]
fn a_ticket_serial_only_rises_and_survives_a_restart() {
    let mut rig = Rig::active(1);
    let mut newer = ticket(1, 1);
    newer.serial = 2;
    newer.size = 128 << 20;
    for t in [&newer, &ticket(1, 1)] {
        let layer = rig.layer_frame(1, t);
        assert_eq!(rig.call(layer).hdr.status, Status::Ok);
    }
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    let frame = rig.write_frame(1, 1, 64 << 8, 1, 1);
    assert_eq!(rig.call(frame).hdr.status, Status::Ok);
}

#[test]
fn r4_a_frozen_layer_takes_nothing_above_its_cut() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    let cut = Version::new(1, 1);
    let hdr = Header { seq: 1, stable: cut, ..rig.hdr(MsgType::Freeze, 1) };
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    assert_eq!(rig.write(1, 2, 0, 2), Status::Invalid);
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert_eq!(rig.write(1, 2, 0, 2), Status::Invalid);
    assert_eq!(rig.byte(1, 0), Some(1));
}

#[test]
fn p22_a_roll_at_or_below_stable_is_ok_before_layer_and_freeze_are_looked_at() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 5, 0, 1), Status::Ok);
    assert_eq!(rig.stable(1, Version::new(1, 5)).hdr.status, Status::Ok);
    let mut frame = rig.roll(1, Version::new(1, 4), 0, 2);
    frame.hdr.layer = LayerId(5);
    assert_eq!(rig.call(frame).hdr.status, Status::Ok);
    assert_eq!(rig.byte(1, 0), Some(1));
}

#[test]
fn r5_an_older_version_never_replaces_a_newer_one() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 5, 0, 5), Status::Ok);
    assert_eq!(rig.write(1, 4, 0, 4), Status::Ok);
    assert_eq!(rig.byte(1, 0), Some(5));
}

#[test]
fn r5_decides_per_block() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 5, 1, 5), Status::Ok);
    let frame = rig.write_frame(1, 4, 0, 3, 4);
    assert_eq!(rig.call(frame).hdr.status, Status::Ok);
    assert_eq!([rig.byte(1, 0), rig.byte(1, 1), rig.byte(1, 2)], [Some(4), Some(5), Some(4)]);
}

#[test]
fn p10_a_duplicate_of_a_trimmed_write_stays_out() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    let hdr = Header { block: 0, count: 1, seq: 2, ..rig.hdr(MsgType::Trim, 1) };
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    assert_eq!(rig.byte(1, 0), None);
}

#[test]
fn b8_a_hole_outlives_a_stable_value_that_a_restart_forgets() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    let hdr = Header { block: 0, count: 1, seq: 2, ..rig.hdr(MsgType::Trim, 1) };
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    assert_eq!(rig.stable(1, Version::new(1, 2)).hdr.status, Status::Ok);
    // The stable value was not logged yet when the power went.
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    assert_eq!(rig.byte(1, 0), None);
}

#[test]
fn r6_nothing_is_acked_before_it_is_durable() {
    let mut rig = Rig::active(1);
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(frame);
    assert!(rig.take_answers().is_empty());
    rig.run();
    assert_eq!(rig.statuses(), [Status::Ok]);
}

#[test]
fn p2_r6b_a_duplicate_is_acked_only_when_the_original_is_durable() {
    let mut rig = Rig::active(1);
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(frame.clone());
    rig.send_from(SERVER, frame);
    assert!(rig.take_answers().is_empty());
    rig.run();
    assert_eq!(rig.statuses(), [Status::Ok, Status::Ok]);
    assert_eq!(rig.count("blocks_written"), 1);
}

#[test]
fn a_read_never_sees_what_a_power_cut_could_take_back() {
    let mut rig = Rig::active(1);
    let write = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(write);
    let read = rig.read_frame(1, 0, 1);
    rig.send(read);
    let answers = rig.take_answers();
    assert_eq!(answers.len(), 1);
    assert!(answers[0].data.is_empty());
}

fn outstanding(granted: u32, used: u32) -> u32 {
    granted.wrapping_sub(used)
}

#[test]
fn l1_credits_come_with_the_seal_and_a_write_with_a_credit_is_never_refused() {
    let mut rig = Rig::open(config(1), drystone_store::testing::NaiveStore::new(4000));
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    let frame = rig.seal_frame(1, &ticket(1, 1));
    let mut granted = rig.call(frame).hdr.credits;
    assert!(granted >= 257);
    let (mut used, mut seq) = (0, 0);
    while outstanding(granted, used) >= 2 {
        seq += 1;
        used += 2;
        let frame = rig.write_frame(1, seq, seq, 1, 1);
        let answer = rig.call(frame);
        assert_eq!(answer.hdr.status, Status::Ok, "write {seq} had a credit");
        granted = answer.hdr.credits;
        if seq == 3000 {
            break;
        }
    }
    assert!(seq > 1000, "credits went on while there was space: {seq}");
}

#[test]
fn l2_a_poll_says_full_only_when_nobody_holds_slots_that_could_come() {
    let mut rig = Rig::open(config(1), drystone_store::testing::NaiveStore::new(2000));
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    let frame = rig.seal_frame(1, &ticket(1, 1));
    let (mut granted, mut used, mut seq) = (rig.call(frame).hdr.credits, 0, 0);
    let full = loop {
        if outstanding(granted, used) >= 2 {
            (seq, used) = (seq + 1, used + 2);
            let frame = rig.write_frame(1, seq, seq, 1, 1);
            let answer = rig.call(frame);
            assert_eq!(answer.hdr.status, Status::Ok);
            granted = answer.hdr.credits;
            continue;
        }
        let poll = rig.stable(1, Version::new(1, seq));
        if poll.hdr.credits == granted {
            break poll.hdr.status;
        }
        granted = poll.hdr.credits;
    };
    assert_eq!(full, Status::Full);
    // An overwrite of mapped blocks needs no credit.
    let mut frame = rig.write_frame(1, seq + 1, 1, 1, 9);
    frame.hdr.flags = Flags::OVERWRITE;
    assert_eq!(rig.call(frame).hdr.status, Status::Ok);
    let trim = Header { block: 1, count: 1, seq: seq + 2, ..rig.hdr(MsgType::Trim, 1) };
    assert_eq!(rig.call(Frame::bare(trim)).hdr.status, Status::Ok);
}

#[test]
fn l3_what_was_granted_stays_reserved_after_an_open_until_it_is_restated() {
    let rig = Rig::active(1);
    let before = rig.r.store().space().granted;
    assert!(before > 0);
    let mut rig = rig.restart(2);
    assert!(rig.r.store().space().granted >= before);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    let mut w = Writer::new();
    w.u32(1).u32(1).u64(1).u32(1).u64(VOL.0).u32(1).u32(10);
    let hdr = rig.hdr(MsgType::Session, 0);
    let answer = rig.call(Frame::with_meta(hdr, w.finish()));
    assert_eq!(answer.hdr.status, Status::Ok);
    let poll = rig.stable(1, Version::ZERO);
    assert_eq!(rig.r.store().space().granted, u64::from(poll.hdr.credits) + 10);
}

#[test]
fn credits_of_an_old_generation_are_freed_by_recovered() {
    let mut rig = Rig::active(1);
    let one = rig.r.store().space().granted;
    rig.seal(2);
    assert!(rig.r.store().space().granted > one);
    let hdr = rig.hdr(MsgType::Recovered, 2);
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    assert_eq!(rig.r.store().space().granted, one);
}

/// A poll that says what is settled.
fn poll(rig: &mut Rig, given: u32, settled: u32, nonce: u64) -> Frame {
    let mut w = Writer::new();
    w.u32(given).u32(settled).u64(nonce);
    let hdr = rig.hdr(MsgType::Stable, 1);
    let answer = rig.call(Frame::with_meta(hdr, w.finish()));
    assert_eq!(answer.hdr.status, Status::Ok);
    answer
}

#[test]
fn returned_slots_are_free_again() {
    let mut rig = Rig::active(1);
    let before = rig.r.store().space();
    poll(&mut rig, 1_000_000, 1_000_000, 1);
    // All of it came back, however much was named, and the smallest window, or twice that, was granted anew at once.
    let after = rig.r.store().space();
    assert!((257..=2 * 257).contains(&after.granted), "{}", after.granted);
    assert_eq!(after.grantable + after.granted, before.grantable + before.granted);
}

/// Through a network that repeats and delays what it carries.
#[test]
fn what_is_settled_counts_once_and_a_late_frame_changes_nothing() {
    let mut rig = Rig::active(1);
    let mut settle = |given: u32, settled: u32| {
        let before = rig.r.store().space().granted;
        poll(&mut rig, given, settled, 1);
        before - rig.r.store().space().granted
    };
    assert_eq!([settle(0, 10), settle(0, 5), settle(0, 10)], [10, 0, 0]);
    let said = [settle(100, 110), settle(100, 110), settle(50, 160), settle(100, 110)];
    assert_eq!(said, [100, 0, 50, 0]);
}

/// Slots of writes that were sent while this drive was out of the PG never arrive: without a word about them it would
/// take them for unused, and grant nothing more to a volume that has none left.
#[test]
fn a_volume_whose_writes_never_arrived_is_granted_more_at_its_first_poll() {
    let mut rig = Rig::active(1);
    let told = rig.stable(1, Version::ZERO).hdr.credits;
    assert_eq!(rig.stable(1, Version::ZERO).hdr.credits, told, "it has them all, as far as the drive knows");
    assert!(poll(&mut rig, 0, told, 1).hdr.credits > told);
}

#[test]
fn what_was_counted_for_an_earlier_open_settles_nothing() {
    let mut rig = Rig::active(1).restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    (0..2).for_each(|_| drop(rig.stable(1, Version::ZERO)));
    let before = rig.r.store().space().granted;
    poll(&mut rig, 200, 200, 1);
    assert_eq!(rig.r.store().space().granted, before);
    poll(&mut rig, 200, 200, 2);
    assert_eq!(rig.r.store().space().granted, before - 200);
}

#[test]
fn a_poll_of_another_form_is_refused() {
    let mut rig = Rig::active(1);
    for meta in [vec![0; 4], vec![0; 15], vec![0; 17]] {
        let hdr = rig.hdr(MsgType::Stable, 1);
        assert_eq!(rig.call(Frame::with_meta(hdr, meta)).hdr.status, Status::Invalid);
    }
}

#[test]
fn a_volume_that_does_not_restate_gets_new_credits_all_the_same() {
    let mut rig = Rig::active(1).restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    rig.stable(1, Version::ZERO);
    assert!(rig.stable(1, Version::ZERO).hdr.credits >= 257);
}

#[test]
fn a_volume_that_polls_without_being_able_to_write_is_given_more() {
    let mut rig = Rig::active(1);
    let first = rig.stable(1, Version::ZERO).hdr.credits;
    let last = (0..12).map(|_| rig.stable(1, Version::ZERO).hdr.credits).last().unwrap();
    assert!(last > first);
}

#[test]
fn a_deleted_volume_leaves_nothing_behind() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    let done = rig.control(drystone_replica::Control::FreeLayer { layer: LAYER });
    assert_eq!(done, drystone_replica::ControlResult::Done);
    rig.run();
    assert_eq!(rig.r.store().space().granted, 0);
    assert_eq!(rig.write(1, 2, 0, 1), Status::NackGen);
    let rig = rig.restart(2);
    assert_eq!(rig.r.store().space().granted, 0);
}
