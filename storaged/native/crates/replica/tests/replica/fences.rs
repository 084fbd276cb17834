//! R1, R2, R3, R6c, parking, reads.

use crate::rig::*;
use drystone_replica::limits::{QUIET_AGAIN, QUIET_MAX};
use drystone_replica::{Action, Control, ControlResult, Event, PeerId, PeerInfo, PeerRole};
use drystone_types::*;

#[test]
fn r1_an_older_epoch_is_answered_with_this_pgs_record() {
    let mut rig = Rig::active(1);
    rig.map(map(2, 2, &[1, 2], &[]));
    rig.epoch = 1;
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    let answer = rig.call(frame);
    assert_eq!(answer.hdr.status, Status::NackEpoch);
    assert_eq!(answer.hdr.pg_epoch, Epoch(2));
    let mut r = Reader::new(&answer.meta);
    assert_eq!(r.u64().unwrap(), 2);
    assert_eq!(PgRecord::decode(&mut r).unwrap().insync.len(), 2);
}

#[test]
fn r1_a_newer_epoch_is_parked_until_the_map_comes_with_one_fetch_in_flight() {
    let mut rig = Rig::active(1);
    rig.epoch = 2;
    rig.rev = 2;
    for seq in 1..=3 {
        let frame = rig.write_frame(1, seq, seq, 1, 1);
        rig.send(frame);
    }
    rig.run();
    assert!(rig.take_answers().is_empty());
    let fetches = rig.out.iter().filter(|a| matches!(a, Action::NeedMap { at_least } if *at_least == Rev(2))).count();
    assert_eq!(fetches, 1);
    rig.map(map(2, 2, &[1, 2], &[]));
    assert_eq!(rig.statuses(), [Status::Ok; 3]);
}

#[test]
fn r1_a_parked_request_is_nacked_when_no_map_comes() {
    let mut rig = Rig::active(1);
    rig.epoch = 2;
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(frame);
    let due = rig.r.next_deadline().unwrap();
    assert!(due <= rig.now + consts::PARK_MAX);
    rig.advance(consts::PARK_MAX);
    assert_eq!(rig.statuses(), [Status::NackEpoch]);
    assert_eq!(rig.count("park_expired"), 1);
}

#[test]
fn r2_only_the_exact_sealed_generation_is_admitted() {
    let mut rig = Rig::active(1);
    rig.seal(2);
    for gen in [1, 3] {
        let frame = rig.write_frame(gen, 1, 0, 1, 1);
        let answer = rig.call(frame);
        assert_eq!(answer.hdr.status, Status::NackGen);
        assert_eq!(answer.hdr.gen, Gen(2));
    }
    assert_eq!(rig.write(2, 1, 0, 1), Status::Ok);
}

#[test]
fn r3_a_drive_that_is_no_member_answers_nack_epoch() {
    let mut rig = Rig::active(1);
    rig.map(map(2, 2, &[2, 3], &[]));
    assert_eq!(rig.write(1, 1, 0, 1), Status::NackEpoch);
}

#[test]
fn r6c_an_ok_for_an_epoch_that_passed_becomes_a_nack_at_the_moment_of_sending() {
    let mut rig = Rig::active(1);
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(frame);
    rig.event(Event::Map(map(2, 2, &[1, 2], &[])));
    rig.run();
    assert_eq!(rig.statuses(), [Status::NackEpoch]);
    assert_eq!(rig.count("late_nacks"), 1);
}

#[test]
fn read_needs_the_lease_also_when_its_answer_leaves() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 8), Status::Ok);
    assert_eq!(rig.byte(1, 0), Some(8));
    let frame = rig.read_frame(1, 0, 1);
    rig.send(frame);
    rig.event(Event::Lease { valid_until: 0 });
    rig.run();
    assert_eq!(rig.statuses(), [Status::Retry]);
    assert_eq!(rig.read(1, 0).hdr.status, Status::Retry);
}

#[test]
fn read_that_waited_for_the_device_is_refused_when_a_seal_passed_it() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 8), Status::Ok);
    let frame = rig.read_frame(1, 0, 1);
    rig.send(frame);
    let seal = rig.seal_frame(2, &ticket(2, 2));
    rig.send(seal);
    rig.run();
    let mut statuses = rig.statuses();
    statuses.sort();
    assert_eq!(statuses, [Status::Ok, Status::NackGen]);
}

#[test]
fn a_read_gives_bitmaps_and_only_the_present_blocks() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 1, 8), Status::Ok);
    let hdr = Header { block: 2, count: 1, seq: 2, ..rig.hdr(MsgType::Zero, 1) };
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    let frame = rig.read_frame(1, 0, 4);
    let answer = rig.call(frame);
    assert_eq!(answer.meta, [0b0010, 0b0100]);
    assert_eq!((answer.csums.len(), answer.data.len()), (1, 4096));
}

#[test]
fn quiesce_stops_reads_until_a_later_epoch_and_survives_a_restart() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 8), Status::Ok);
    assert_eq!(rig.control(Control::Quiesce { pg: PG, epoch: Epoch(1) }), ControlResult::Done);
    assert_eq!(rig.read(1, 0).hdr.status, Status::Retry);
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert_eq!(rig.read(1, 0).hdr.status, Status::Retry);
    rig.map(map(2, 2, &[1, 2], &[]));
    assert_eq!(rig.byte(1, 0), Some(8));
}

/// The epochs for which the drive says that it stands quiet, in the time that passes.
fn told_quiet(rig: &mut Rig, time: u64) -> Vec<u32> {
    rig.out.clear();
    rig.advance(time);
    let told = rig.out.iter().filter_map(|a| match a {
        Action::StillQuiet { pg: PG, epoch } => Some(epoch.0),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_promise_to_answer_no_reads_that_leads_to_nothing_is_told_until_a_new_epoch() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 8), Status::Ok);
    assert!(told_quiet(&mut rig, 60_000_000).is_empty(), "nothing was promised");
    assert_eq!(rig.control(Control::Quiesce { pg: PG, epoch: Epoch(1) }), ControlResult::Done);
    assert!(told_quiet(&mut rig, QUIET_MAX / 2).is_empty(), "a drop may be on its way");
    // Asked once more it is as old as before.
    assert_eq!(rig.control(Control::Quiesce { pg: PG, epoch: Epoch(1) }), ControlResult::Done);
    assert_eq!(told_quiet(&mut rig, QUIET_MAX / 2), [1]);
    assert!(rig.r.next_deadline().is_some_and(|at| at <= rig.now + QUIET_AGAIN));
    assert_eq!(told_quiet(&mut rig, QUIET_AGAIN), [1]);
    assert_eq!(rig.read(1, 0).hdr.status, Status::Retry, "time ends no promise");
    rig.map(map(2, 2, &[1, 2, 3], &[]));
    assert_eq!(rig.byte(1, 0), Some(8));
    assert!(told_quiet(&mut rig, QUIET_MAX).is_empty());
    assert_eq!(rig.control(Control::Quiesce { pg: PG, epoch: Epoch(2) }), ControlResult::Done);
    assert!(told_quiet(&mut rig, QUIET_MAX / 2).is_empty(), "another promise, with a time of its own");
    assert_eq!(told_quiet(&mut rig, QUIET_MAX / 2), [2]);
}

#[test]
fn a_promise_of_before_a_restart_is_told_and_one_of_a_drive_that_left_is_not() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.control(Control::Quiesce { pg: PG, epoch: Epoch(1) }), ControlResult::Done);
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert_eq!(told_quiet(&mut rig, QUIET_MAX), [1]);
    rig.map(map(2, 2, &[2, 3], &[]));
    assert!(told_quiet(&mut rig, QUIET_MAX).is_empty());
}

#[test]
fn a_client_touches_only_volumes_of_its_own_tickets() {
    let mut rig = Rig::active(1);
    let other = drystone_replica::PeerId(8);
    let info = drystone_replica::PeerInfo { role: drystone_replica::PeerRole::Client, uuid: Uuid([8; 16]) };
    rig.event(Event::PeerUp { peer: other, info });
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    assert_eq!(rig.call_from(other, frame).hdr.status, Status::NeedTicket);
    let stolen = rig.seal_frame(2, &ticket(2, 2));
    assert_eq!(rig.call_from(other, stolen).hdr.status, Status::Denied);
    let fence = Frame::with_meta(rig.hdr(MsgType::Fence, 5), vec![0; 8]);
    assert_eq!(rig.call_from(other, fence).hdr.status, Status::Denied);
}

#[test]
fn a_map_of_another_cluster_or_an_older_incarnation_is_refused() {
    let mut rig = Rig::active(1);
    let mut other = (*map(9, 9, &[2], &[])).clone();
    other.cluster = Uuid([1; 16]);
    rig.event(Event::Map(std::sync::Arc::new(other)));
    let mut old = (*map(9, 9, &[2], &[])).clone();
    old.incarnation = 0;
    rig.event(Event::Map(std::sync::Arc::new(old)));
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    let refused =
        rig.out.iter().filter(|a| matches!(a, Action::Report(drystone_replica::Report::MapRefused(_)))).count();
    assert_eq!(refused, 2);
}

#[test]
fn malformed_requests_are_invalid_and_change_nothing() {
    let mut rig = Rig::active(1);
    let good = rig.write_frame(1, 1, 0, 2, 1);
    let bad = |f: &dyn Fn(&mut Frame)| {
        let mut frame = good.clone();
        f(&mut frame);
        frame
    };
    let frames = vec![
        bad(&|f| f.hdr.count = 0),
        bad(&|f| f.hdr.count = u32::MAX),
        bad(&|f| f.hdr.block = 1023),
        bad(&|f| f.csums.clear()),
        bad(&|f| f.hdr.seq = 0),
        bad(&|f| f.hdr.origin_gen = Gen(0)),
        bad(&|f| f.hdr.stable = Version::new(9, 1)),
        bad(&|f| f.hdr.pg.pg = 0x3f_ffff),
    ];
    for (i, frame) in frames.into_iter().enumerate() {
        rig.advance(200_000);
        rig.send(frame);
        rig.run();
        rig.advance(200_000);
        let statuses = rig.statuses();
        assert!(matches!(statuses.as_slice(), [Status::Invalid | Status::NackEpoch]), "case {i}: {statuses:?}");
    }
    assert_eq!(rig.count("blocks_written"), 0);
    let mut torn = good;
    torn.csums[1] ^= 1;
    assert_eq!(rig.call(torn).hdr.status, Status::Retry);
}

#[test]
fn relay_forwards_unchanged_and_routes_the_answer_back() {
    let mut rig = Rig::active(1);
    let mut frame = rig.write_frame(1, 1, 0, 1, 1);
    frame.hdr.drive = DriveId(2);
    frame.hdr.flags = Flags::RELAY;
    let asked = frame.hdr.request;
    rig.send(frame);
    let relayed = rig.out.iter().find_map(|a| match a {
        Action::SendDrive { drive: DriveId(2), frame } => Some(frame.clone()),
        _ => None,
    });
    let relayed = relayed.expect("a relayed request");
    assert_eq!((relayed.hdr.seq, relayed.data.len()), (1, 4096));
    let answer = Frame::bare(relayed.hdr.reply(Status::Ok));
    rig.event(Event::DriveReply { drive: DriveId(2), frame: answer });
    let answers = rig.take_answers();
    assert_eq!((answers[0].hdr.request, answers[0].hdr.status), (asked, Status::Ok));
}

#[test]
fn relay_without_a_ticket_of_the_client_is_not_forwarded() {
    let mut rig = Rig::active(1);
    let mut frame = rig.write_frame(1, 1, 0, 1, 1);
    frame.hdr.drive = DriveId(2);
    frame.hdr.vol = VolumeId(1234);
    frame.hdr.flags = Flags::RELAY;
    rig.send(frame);
    assert_eq!(rig.statuses(), [Status::Retry]);
    assert!(!rig.has(|a| matches!(a, Action::SendDrive { .. })));
}

#[test]
fn a_guest_of_a_volume_relays_reads_and_never_writes() {
    let mut rig = Rig::active(1);
    let (peer, guest) = (PeerId(5), Uuid([8; 16]));
    rig.event(Event::PeerUp { peer, info: PeerInfo { role: PeerRole::Client, uuid: guest } });
    let ticket = Ticket { client: guest, mode: AttachMode::Snapshot, ..ticket(1, 1) };
    let layer = rig.layer_frame(1, &ticket);
    assert_eq!(rig.call_from(peer, layer).hdr.status, Status::Ok);
    let relayed = |mut frame: Frame| {
        frame.hdr.drive = DriveId(2);
        frame.hdr.flags = Flags::RELAY;
        frame
    };
    let write = relayed(rig.write_frame(1, 1, 0, 1, 1));
    rig.send_from(peer, write);
    assert_eq!(rig.statuses(), [Status::Retry]);
    assert!(!rig.has(|a| matches!(a, Action::SendDrive { .. })));
    let read = relayed(rig.read_frame(1, 0, 1));
    rig.send_from(peer, read);
    assert!(rig.has(|a| matches!(a, Action::SendDrive { drive: DriveId(2), .. })));
}

#[test]
fn a_block_beyond_every_volume_is_invalid() {
    let mut rig = Rig::active(1);
    let write = rig.write_frame(1, 1, 0, 1, 1);
    let far = Frame { hdr: Header { block: u64::MAX, ..write.hdr }, ..write };
    assert_eq!(rig.call(far).hdr.status, Status::Invalid);
    let mut read = rig.read_frame(1, 0, 1);
    read.hdr.block = u64::MAX;
    assert_eq!(rig.call(read).hdr.status, Status::Invalid);
}

#[test]
fn an_exact_read_names_a_layer_of_the_ticket() {
    let mut rig = Rig::active(1);
    let exact = Header { flags: Flags::ROLL, block: 0, count: 1, seq: 1, ..rig.hdr(MsgType::Read, 1) };
    let foreign = Header { layer: LayerId(999), ..exact };
    assert_eq!(rig.call(Frame::bare(foreign)).hdr.status, Status::NeedTicket);
    assert_eq!(rig.call(Frame::bare(exact)).hdr.status, Status::Invalid, "that version is not held");
}

#[test]
fn a_suspect_drive_refuses_everything_and_asks_to_be_dropped() {
    let mut cfg = config(1);
    cfg.suspect = true;
    let mut rig = Rig::open(cfg, drystone_store::testing::NaiveStore::new(1000));
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert!(rig.has(|a| matches!(a, Action::LeavePg { why: drystone_replica::LeaveWhy::Suspect, .. })));
    assert_eq!(rig.write(1, 1, 0, 1), Status::Eio);
}

/// How often the drive asks to leave at the next few times at which it wants to be woken.
fn asks_within(rig: &mut Rig, times: u64) -> usize {
    rig.out.clear();
    for _ in 0..times {
        let at = rig.r.next_deadline().expect("it asks again");
        rig.advance(at.saturating_sub(rig.now).max(1));
    }
    rig.out.iter().filter(|a| matches!(a, Action::LeavePg { .. })).count()
}

#[test]
fn a_drive_that_cannot_serve_asks_again_until_the_map_dropped_it() {
    let mut cfg = config(1);
    cfg.suspect = true;
    let mut suspect = Rig::open(cfg, drystone_store::testing::NaiveStore::new(1000));
    suspect.map(map(1, 1, &[1, 2, 3], &[]));
    let mut failed = Rig::active(1);
    failed.r.store_mut().fail();
    failed.event(Event::Tick);
    for rig in [&mut suspect, &mut failed] {
        assert!(asks_within(rig, 5) >= 2, "the call may have been lost with a leader");
        rig.map(map(9, 9, &[2, 3], &[]));
        rig.out.clear();
        rig.advance(30_000_000);
        assert!(!rig.has(|a| matches!(a, Action::LeavePg { .. })));
    }
}

#[test]
fn a_failed_device_answers_eio_and_asks_to_be_dropped() {
    let mut rig = Rig::active(1);
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(frame);
    rig.r.store_mut().fail();
    rig.event(Event::Tick);
    assert_eq!(rig.statuses(), [Status::Eio]);
    assert!(rig.has(|a| matches!(a, Action::LeavePg { why: drystone_replica::LeaveWhy::DriveFailed, .. })));
    assert_eq!(rig.write(1, 2, 0, 1), Status::Eio);
}
