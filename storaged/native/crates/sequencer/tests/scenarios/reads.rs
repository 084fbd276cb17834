use drystone_sequencer::*;
use drystone_types::*;

use crate::world::{pattern, ticket, World};

fn near(drive: u32) -> World {
    let cfg = Config { near: vec![DriveId(drive)], ..Config::default() };
    let mut w = World::attached_with(1, &ticket(1), cfg);
    w.write(0, &pattern(4, 8192));
    w
}

#[test]
fn a_read_goes_to_the_nearest_insync_member() {
    let mut w = near(2);
    w.read(0, 4096);
    assert_eq!(w.sent(MsgType::Read).iter().map(|s| s.0).collect::<Vec<_>>(), vec![2]);
}

#[test]
fn without_a_near_drive_the_least_loaded_is_asked() {
    let mut w = World::attached();
    for d in 1..=3 {
        w.hold(d);
    }
    for i in 0..6 {
        w.io(Io::Read { offset: i * 4096, len: 4096 });
    }
    let mut asked: Vec<u32> = w.sent(MsgType::Read).iter().map(|s| s.0).collect();
    asked.sort_unstable();
    assert_eq!(asked, vec![1, 1, 2, 2, 3, 3]);
}

#[test]
fn a_lone_reader_stays_with_a_drive_for_256_reads_and_then_asks_another() {
    let mut w = World::attached();
    w.write(0, &pattern(4, 4096));
    for _ in 0..600 {
        w.read(0, 4096);
    }
    let asked: Vec<u32> = w.sent(MsgType::Read).iter().map(|s| s.0).collect();
    let mut runs: Vec<(u32, usize)> = Vec::new();
    for drive in asked {
        match runs.last_mut() {
            Some((d, n)) if *d == drive => *n += 1,
            _ => runs.push((drive, 1)),
        }
    }
    assert_eq!(runs.iter().map(|r| r.1).collect::<Vec<_>>(), vec![256, 256, 88]);
    assert_ne!(runs[0].0, runs[1].0);
}

#[test]
fn i16_a_block_that_fails_its_checksum_is_read_from_another_copy_and_counted() {
    let mut w = near(2);
    w.rep(2).rot = true;
    assert_eq!(w.read(0, 8192), pattern(4, 8192));
    assert_eq!(w.seq.stats().csum_errors, 1);
    assert!(matches!(w.reports()[0], (2, ReportKind::BadBlock { block: 0, .. })));
}

#[test]
fn two_rotten_copies_of_three_still_give_the_right_bytes_and_three_give_eio() {
    let mut w = near(2);
    w.rep(2).rot = true;
    w.rep(1).rot = true;
    assert_eq!(w.read(0, 8192), pattern(4, 8192));
    w.rep(3).broken = vec![0];
    let tag = w.io(Io::Read { offset: 0, len: 4096 });
    assert_eq!(w.done[&tag], Err(IoError::Eio));
}

#[test]
fn a_slow_read_is_hedged_and_both_answers_are_one() {
    let mut w = near(2);
    w.hold(2);
    let tag = w.io(Io::Read { offset: 0, len: 8192 });
    assert!(w.open(tag));
    w.pass(10_000);
    assert_eq!(w.bytes(tag), pattern(4, 8192));
    assert_eq!(w.seq.stats().hedges, 1);
    w.release(2);
    w.pass(1_000_000);
    assert_eq!(w.seq.next_deadline(), None);
}

#[test]
fn a_silent_only_copy_is_reported_and_read_through_a_relay() {
    let mut w = near(2);
    w.change(&[3], &[1], &[1, 3]);
    w.rep(1).sealed = Gen(1);
    w.push_map();
    w.hold(3);
    let tag = w.io(Io::Read { offset: 0, len: 4096 });
    w.pass(260_000);
    assert!(w.reports().contains(&(3, ReportKind::Stall)));
    assert_eq!(w.bytes(tag), pattern(4, 4096));
}

#[test]
fn retry_and_need_ticket_lead_to_another_copy_or_to_a_later_try() {
    let mut w = near(2);
    for d in 1..=3 {
        w.rep(d).refuse = vec![(MsgType::Read, Status::Retry), (MsgType::Read, Status::NeedTicket)];
    }
    let tag = w.io(Io::Read { offset: 0, len: 4096 });
    assert!(w.open(tag));
    w.pass(200_000);
    assert_eq!(w.bytes(tag), pattern(4, 4096));
}

#[test]
fn a_read_of_a_dropped_member_is_asked_elsewhere() {
    let mut w = near(2);
    w.hold(2);
    let tag = w.io(Io::Read { offset: 0, len: 4096 });
    w.change(&[1, 3], &[], &[1, 3]);
    w.push_map();
    assert_eq!(w.bytes(tag), pattern(4, 4096));
}

#[test]
fn with_no_connection_at_all_a_read_waits_and_reports_without_spinning() {
    let mut w = near(2);
    for d in 1..=3 {
        w.step(Event::DriveDown { drive: DriveId(d), refused: false });
    }
    let tag = w.io(Io::Read { offset: 0, len: 4096 });
    w.pass(3_000_000);
    assert!(w.open(tag));
    assert!(w.reports().len() >= 3 && w.reports().len() <= 12, "{:?}", w.reports());
    w.up(1);
    assert_eq!(w.bytes(tag), pattern(4, 4096));
}

#[test]
fn a_malformed_answer_is_an_error_of_that_copy_only() {
    let mut w = near(2);
    w.hold(2);
    let tag = w.io(Io::Read { offset: 0, len: 8192 });
    let ask = w.held[0].2.clone();
    for meta in [vec![], vec![3], vec![3, 0, 0], vec![0xff; 500]] {
        w.step(Event::Frame { drive: DriveId(2), frame: Frame::with_meta(ask.hdr.reply(Status::Ok), meta) });
    }
    assert_eq!(w.bytes(tag), pattern(4, 8192));
}

#[test]
fn block_status_tells_data_from_holes() {
    let mut w = World::attached();
    w.write(4096, &pattern(1, 8192));
    let tag = w.io(Io::BlockStatus { offset: 512, len: 32_768 });
    let Some(Ok(IoOk::Extents(e))) = w.done.get(&tag) else { panic!() };
    let e: Vec<_> = e.iter().map(|e| (e.len, e.data)).collect();
    assert_eq!(e, vec![(3584, false), (8192, true), (20_992, false)]);
}
