use drystone_sequencer::*;
use drystone_types::*;

use crate::world::{pattern, World, SIZE};

#[test]
fn a_write_is_read_back_and_is_on_every_member() {
    let mut w = World::attached();
    let data = pattern(1, 12_288);
    let tag = w.write(8192, &data);
    assert!(w.ok(tag));
    assert_eq!(w.read(8192, 12_288), data);
    assert_eq!(w.read(0, 4096), vec![0; 4096]);
    for d in 1..=3 {
        assert_eq!(w.rep(d).cells.len(), 3);
    }
}

#[test]
fn requests_are_cut_at_chunks_and_at_256_blocks() {
    let mut w = World::attached_with(8, &crate::world::ticket(1), Config::default());
    let data = pattern(2, 6 << 20);
    let tag = w.write((4 << 20) - 8192, &data);
    assert!(w.ok(tag));
    assert_eq!(w.read((4 << 20) - 8192, 6 << 20), data);
    for (_, f) in w.sent(MsgType::Write) {
        assert!(f.hdr.count <= 256 && f.hdr.block / 1024 == (f.hdr.block + u64::from(f.hdr.count) - 1) / 1024);
    }
}

#[test]
fn w1_an_overlapping_read_waits_until_the_answer_is_in_the_consumers_socket() {
    let mut w = World::attached();
    w.answer = false;
    let first = w.write(0, &pattern(1, 4096));
    assert!(w.ok(first));
    let read = w.io(Io::Read { offset: 0, len: 4096 });
    assert!(w.open(read));
    let elsewhere = w.io(Io::Read { offset: 4096, len: 4096 });
    assert!(!w.open(elsewhere));
    w.step(Event::Answered { tag: first });
    assert_eq!(w.bytes(read), pattern(1, 4096));
}

#[test]
fn w2_a_write_waits_for_every_member_and_for_joiners() {
    let mut w = World::attached();
    w.change(&[1, 2, 3], &[4], &[1, 2, 3, 4]);
    w.rep(4).sealed = Gen(1);
    w.push_map();
    w.up(4);
    w.hold(4);
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.open(tag), "the joiner's ticket and answer are awaited");
    w.release(4);
    assert!(w.ok(tag));
    assert_eq!(w.sent(MsgType::Layer).iter().filter(|s| s.0 == 4).count(), 1, "LAYER before the first write there");
    assert_eq!(w.rep(4).cells.len(), 1);
}

#[test]
fn w2_acks_of_two_epochs_do_not_add_up() {
    let mut w = World::attached();
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.open(tag));
    // Member 1 acked in epoch 1; in epoch 2 it is not up to date until it answers again.
    w.hold(1);
    w.hold(2);
    w.change(&[1, 2, 3], &[], &[1, 2, 3]);
    w.push_map();
    w.release(3);
    w.release(2);
    assert!(w.open(tag), "the ack of epoch 1 of member 1 does not count");
    w.release(1);
    assert!(w.ok(tag));
    let versions: Vec<u64> = w.sent(MsgType::Write).iter().map(|s| s.1.hdr.seq).collect();
    assert!(versions.iter().all(|v| *v == versions[0]), "resent with the same version");
}

#[test]
fn w2_a_late_ok_of_an_old_epoch_is_ignored() {
    let mut w = World::attached();
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    let (_, _, old) = w.held[0].clone();
    w.change(&[1, 2, 3], &[], &[1, 2, 3]);
    w.push_map();
    let mut late = Frame::bare(old.hdr.reply(Status::Ok));
    late.hdr.pg_epoch = Epoch(1);
    w.step(Event::Frame { drive: DriveId(3), frame: late });
    assert!(w.open(tag));
    w.release(3);
    assert!(w.ok(tag));
}

#[test]
fn p19_a_nack_teaches_the_newer_record_of_one_pg() {
    let mut w = World::attached();
    w.change(&[1, 2], &[], &[1, 2]);
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.ok(tag), "{:?}", w.seq.stats());
    assert!(w.seq.stats().nack_epoch >= 1);
    assert_eq!(w.seq.stats().resends, 1);
}

#[test]
fn p19_a_client_ahead_of_its_servers_backs_off_and_does_not_spin() {
    let mut w = World::attached();
    w.change(&[1, 2, 3], &[], &[1, 2]);
    w.push_map();
    let tag = w.write(0, &pattern(1, 4096));
    w.pass(1_000_000);
    assert!(w.open(tag));
    assert!(w.sent(MsgType::Write).len() < 60, "{}", w.sent(MsgType::Write).len());
    let map = w.map.clone();
    w.rep(3).map = map;
    w.pass(60_000);
    assert!(w.ok(tag));
}

#[test]
fn a_silent_member_is_reported_each_second_relayed_to_and_never_skipped() {
    let mut w = World::attached();
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.pass(249_000);
    assert!(w.reports().is_empty());
    w.pass(2_000);
    assert_eq!(w.reports(), vec![(3, ReportKind::Stall)]);
    assert!(w.ok(tag), "the relay reached it");
    assert_eq!(w.seq.stats().relays, 1);
    w.hold(1);
    w.hold(2);
    let tag = w.write(4096, &pattern(1, 4096));
    w.pass(3_500_000);
    assert!(w.open(tag));
    assert_eq!(w.reports().iter().filter(|r| r.0 == 2).count(), 4);
}

#[test]
fn a_refused_connection_is_reported_at_once_and_a_reconnect_resends() {
    let mut w = World::attached();
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.held.clear();
    w.step(Event::DriveDown { drive: DriveId(3), refused: true });
    assert_eq!(w.reports(), vec![(3, ReportKind::Refused)]);
    w.hold.clear();
    w.up(3);
    assert!(w.ok(tag));
}

#[test]
fn retry_backs_off_and_resends_and_counts_as_silence_after_a_second() {
    let mut w = World::attached();
    w.rep(2).refuse = vec![(MsgType::Write, Status::Retry); 5];
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.open(tag));
    w.pass(100_000);
    assert!(w.ok(tag) && w.reports().is_empty());
    w.rep(2).refuse = vec![(MsgType::Write, Status::Retry); 40];
    w.write(0, &pattern(1, 4096));
    w.pass(1_200_000);
    assert!(w.reports().contains(&(2, ReportKind::Stall)));
}

#[test]
fn eio_of_a_member_is_reported_and_the_write_waits_for_its_drop() {
    let mut w = World::attached();
    w.rep(2).refuse = vec![(MsgType::Write, Status::Eio)];
    let tag = w.write(0, &pattern(1, 4096));
    assert_eq!(w.reports(), vec![(2, ReportKind::DriveError)]);
    assert!(w.open(tag));
    w.change(&[1, 3], &[], &[1, 3]);
    w.push_map();
    assert!(w.ok(tag));
}

#[test]
fn eio_of_the_last_copy_ends_the_generation() {
    let mut w = World::attached();
    w.change(&[1], &[], &[1]);
    w.map.pools[0].min_insync = 1;
    w.push_map();
    w.rep(1).refuse = vec![(MsgType::Write, Status::Full)];
    let tag = w.write(0, &pattern(1, 4096));
    assert_eq!(w.done[&tag], Err(IoError::Fenced));
    assert_eq!(w.seq.state(), State::Fenced);
    assert_eq!(w.reports(), vec![(1, ReportKind::Full)]);
}

#[test]
fn below_min_insync_writes_wait_and_reads_go_on() {
    let mut w = World::attached();
    w.write(0, &pattern(9, 4096));
    w.change(&[1], &[], &[1]);
    w.push_map();
    let tag = w.write(4096, &pattern(1, 4096));
    assert!(w.open(tag));
    assert_eq!(w.seq.state(), State::Stalled);
    assert_eq!(w.read(0, 4096), pattern(9, 4096));
    w.change(&[1, 2], &[], &[1, 2]);
    w.push_map();
    assert!(w.ok(tag));
    assert_eq!(w.seq.state(), State::Active);
}

#[test]
fn an_issued_write_is_not_acknowledged_by_fewer_copies_than_min_insync() {
    let mut w = World::attached();
    w.hold(2);
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.change(&[1], &[], &[1]);
    w.push_map();
    w.pass(2_000_000);
    assert!(w.open(tag));
    w.hold.clear();
    w.change(&[1, 2], &[], &[1, 2]);
    w.push_map();
    assert!(w.ok(tag));
}

#[test]
fn p16_stable_is_told_when_idle_until_acknowledged_and_then_there_is_silence() {
    let mut w = World::attached();
    w.hold(3);
    w.pass(1);
    w.hold.clear();
    w.write(0, &pattern(1, 4096));
    w.hold(3);
    w.pass(60_000);
    assert_eq!(w.sent(MsgType::Stable).len(), 3);
    assert!(w.rep(1).stable == Version::new(1, 1) && w.rep(3).stable == Version::new(1, 0));
    w.step(Event::DriveDown { drive: DriveId(3), refused: false });
    let spare = w.now + 900_000;
    assert!(w.seq.next_deadline().is_some_and(|at| at > spare), "only credits to give back, once, after a second");
    w.held.clear();
    w.hold.clear();
    w.up(3);
    assert_eq!(w.rep(3).stable, Version::new(1, 1));
    w.pass(1_000_000);
    assert_eq!(w.seq.next_deadline(), None);
}

#[test]
fn w3_at_most_16384_versions_are_above_stable() {
    let mut w = World::attached();
    w.hold(3);
    for i in 0..16_390u64 {
        w.io(Io::Trim { offset: i % (SIZE / 4096) * 4096, len: 4096 });
        if i % 1024 == 0 {
            w.held.truncate(1);
        }
    }
    let (stable, last) = w.seq.versions();
    assert!(stable.seq == 0 && last.seq <= 16_384, "{last}");
}

#[test]
fn flush_is_answered_at_once_and_bad_requests_are_refused() {
    let mut w = World::attached();
    w.hold(3);
    w.write(0, &pattern(1, 4096));
    let flush = w.io(Io::Flush);
    assert!(w.ok(flush));
    for io in [
        Io::Read { offset: 1, len: 512 },
        Io::Read { offset: SIZE, len: 512 },
        Io::Read { offset: u64::MAX - 511, len: 512 },
        Io::Write { offset: SIZE - 512, data: Buf::copy_from(&[0; 1024]) },
        Io::Read { offset: 0, len: u64::MAX - 511 },
    ] {
        let tag = w.io(io);
        assert_eq!(w.done[&tag], Err(IoError::Invalid));
    }
}

#[test]
fn lowering_min_insync_lets_waiting_and_issued_writes_go_on() {
    let mut w = World::attached();
    w.hold(2);
    let issued = w.write(0, &pattern(1, 4096));
    w.change(&[1], &[], &[1]);
    w.push_map();
    let waiting = w.write(4096, &pattern(2, 4096));
    assert!(w.open(issued) && w.open(waiting));
    w.map.revision.0 += 1;
    w.map.pools[0].min_insync = 1;
    w.push_map();
    assert!(w.ok(issued) && w.ok(waiting));
    assert_eq!(w.seq.state(), State::Active);
}

#[test]
fn a_drive_that_never_takes_the_ticket_is_not_asked_in_a_tight_loop() {
    let mut w = World::attached();
    w.rep(2).refuse = vec![(MsgType::Write, Status::NeedTicket); 500];
    let tag = w.write(0, &pattern(1, 4096));
    w.pass(1_000_000);
    assert!(w.open(tag));
    assert!(w.sent(MsgType::Layer).len() < 60, "{}", w.sent(MsgType::Layer).len());
    w.rep(2).refuse.clear();
    w.pass(100_000);
    assert!(w.ok(tag));
}

#[test]
fn a_member_that_answered_around_is_asked_around_at_once_until_its_own_connection_speaks() {
    let mut w = World::attached();
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.pass(251_000);
    assert!(w.ok(tag));
    assert_eq!(w.seq.stats().relays, 1);
    let direct =
        |w: &World| w.sent(MsgType::Write).iter().filter(|(d, f)| *d == 3 && !f.hdr.flags.has(Flags::RELAY)).count();
    let before = direct(&w);
    for n in 1..4 {
        let tag = w.write(n * 4096, &pattern(1, 4096));
        assert!(w.ok(tag), "nothing waits for a silence that is known");
    }
    assert_eq!((w.seq.stats().relays, direct(&w)), (4, before));
    let pings = w.sent(MsgType::Ping).len();
    assert_eq!(pings, 1, "one a second");
    w.pass(1_100_000);
    let tag = w.write(5 * 4096, &pattern(1, 4096));
    assert!(w.ok(tag));
    assert_eq!(w.sent(MsgType::Ping).len(), pings + 1);
    w.hold.clear();
    w.release(3);
    let relays = w.seq.stats().relays;
    let tag = w.write(6 * 4096, &pattern(1, 4096));
    assert!(w.ok(tag));
    assert_eq!(w.seq.stats().relays, relays, "its own connection is in use again");
}

#[test]
fn the_time_in_which_writes_wait_is_counted_and_no_other() {
    let mut w = World::attached();
    for n in 0..8 {
        let tag = w.write(n * 4096, &pattern(1, 4096));
        assert!(w.ok(tag));
    }
    w.pass(5_000_000);
    assert_eq!(w.seq.stats().stall_us, 0, "an idle volume waits for nothing");
    for d in 1..=3 {
        w.hold(d);
    }
    let tag = w.write(0, &pattern(2, 4096));
    w.pass(2_000_000);
    assert!(w.open(tag));
    w.hold.clear();
    for d in 1..=3 {
        w.release(d);
    }
    assert!(w.ok(tag));
    let counted = w.seq.stats().stall_us;
    assert!((1_900_000..=2_000_000).contains(&counted), "{counted}");
    w.pass(5_000_000);
    assert_eq!(w.seq.stats().stall_us, counted);
}

#[test]
fn the_way_around_that_worked_is_taken_first_and_the_second_one_is_tried_soon() {
    let mut w = World::attached();
    w.hold(3);
    w.lose_relays(1);
    let tag = w.write(0, &pattern(1, 4096));
    w.pass(251_000);
    assert!(w.open(tag), "the first one asked does not reach it");
    w.pass(250_000);
    assert!(w.ok(tag));
    let tag = w.write(0, &pattern(2, 4096));
    assert!(w.ok(tag), "no wait for the one that does not reach it");
}

#[test]
fn when_the_way_that_worked_is_cut_too_the_other_one_is_next() {
    let mut w = World::attached();
    w.hold(3);
    w.lose_relays(1);
    let tag = w.write(0, &pattern(1, 4096));
    w.pass(501_000);
    assert!(w.ok(tag), "through 2");
    w.cut_off.clear();
    w.lose_relays(2);
    let tag = w.write(0, &pattern(2, 4096));
    w.pass(251_000);
    assert!(w.ok(tag), "not through 2 once more");
}

#[test]
fn refusals_of_one_write_by_many_ways_start_one_repetition() {
    let mut w = World::attached();
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    let to = |w: &World| w.sent(MsgType::Write).into_iter().filter(|(d, _)| *d == 3).collect::<Vec<_>>();
    let (_, first) = to(&w).remove(0);
    for _ in 0..5 {
        let refusal = Frame::bare(first.hdr.reply(Status::Retry));
        w.step(Event::Frame { drive: DriveId(3), frame: refusal });
    }
    w.pass(100_000);
    assert_eq!(to(&w).len(), 2, "one repetition for five refusals");
    w.release(3);
    assert!(w.ok(tag));
}
