use drystone_sequencer::*;
use drystone_types::*;

use crate::world::{pattern, ticket, World};

/// Three drives that grant `slots` each.
fn granted(slots: u32) -> World {
    let mut w = World::idle(1, &ticket(1), Config::default());
    for d in 1..=3 {
        w.rep(d).granted = slots;
    }
    w.attach();
    w
}

#[test]
fn w0_a_write_is_sent_to_nobody_before_every_member_has_granted_its_slots() {
    let mut w = World::idle(1, &ticket(1), Config::default());
    w.rep(2).granted = 1;
    w.attach();
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.open(tag) && w.sent(MsgType::Write).is_empty());
    w.rep(2).granted = 2;
    w.pass(60_000);
    assert!(w.ok(tag));
}

#[test]
fn w0_slots_are_used_up_by_blocks_and_headers_and_polled_every_50_ms() {
    let mut w = granted(6);
    for i in 0..3 {
        let tag = w.write(i * 4096, &pattern(1, 4096));
        assert!(w.ok(tag));
    }
    let tag = w.write(4 * 4096, &pattern(1, 4096));
    w.pass(1_000_000);
    assert!(w.open(tag), "not full, so it waits");
    let polls = w.sent(MsgType::Stable).len();
    assert!((15..80).contains(&polls), "{polls}");
    for d in 1..=3 {
        w.rep(d).granted = 8;
    }
    w.pass(60_000);
    assert!(w.ok(tag));
    w.pass(1_000_000);
    assert_eq!(w.seq.next_deadline(), None);
}

#[test]
fn w0_a_resend_uses_no_further_slot_and_a_new_joiner_gives_its_own() {
    let mut w = granted(2);
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.rep(4).granted = 1;
    w.rep(4).sealed = Gen(1);
    w.change(&[1, 2, 3], &[4], &[1, 2, 3, 4]);
    w.push_map();
    w.up(4);
    w.release(3);
    assert!(w.open(tag), "the joiner has not granted enough");
    w.rep(4).granted = 2;
    w.pass(60_000);
    assert!(w.ok(tag));
}

#[test]
fn l2_enospc_only_when_an_insync_member_says_full_and_nothing_is_granted() {
    let mut w = granted(2);
    assert!({
        let t = w.write(0, &pattern(1, 4096));
        w.ok(t)
    });
    w.rep(2).full = true;
    let tag = w.write(4096, &pattern(1, 4096));
    w.pass(60_000);
    assert_eq!(w.done[&tag], Err(IoError::NoSpace));
}

#[test]
fn l2_a_full_joiner_is_waited_for() {
    let mut w = granted(10);
    w.rep(4).granted = 1;
    w.rep(4).full = true;
    w.rep(4).sealed = Gen(1);
    w.change(&[1, 2, 3], &[4], &[1, 2, 3, 4]);
    w.push_map();
    w.up(4);
    let tag = w.write(0, &pattern(1, 4096));
    w.pass(500_000);
    assert!(w.open(tag));
    w.change(&[1, 2, 3], &[], &[1, 2, 3]);
    w.push_map();
    assert!(w.ok(tag));
}

#[test]
fn on_full_drives_mapped_blocks_are_overwritten_without_credits_and_holes_go_on() {
    let mut w = granted(2);
    w.write(0, &pattern(1, 4096));
    for d in 1..=3 {
        w.rep(d).full = true;
    }
    let tag = w.write(0, &pattern(2, 4096));
    w.pass(60_000);
    assert!(w.ok(tag));
    assert_eq!(w.seq.stats().overwrites, 1);
    assert_eq!(w.read(0, 4096), pattern(2, 4096));
    let trim = w.io(Io::Trim { offset: 0, len: 4096 });
    assert!(w.ok(trim));
}

#[test]
fn l3_a_new_open_nonce_starts_the_grant_again() {
    let mut w = granted(1000);
    w.write(0, &pattern(1, 4096));
    w.step(Event::DriveDown { drive: DriveId(3), refused: false });
    w.rep(3).granted = 1;
    w.rep(3).nonce = 2;
    w.up(3);
    w.write(4096, &pattern(1, 4096));
    let tag = w.write(8192, &pattern(1, 4096));
    w.pass(200_000);
    assert!(w.open(tag), "what the old process granted is gone");
    w.rep(3).granted = 100;
    w.pass(60_000);
    assert!(w.ok(tag));
}

#[test]
fn a_recall_gives_back_unissued_slots_once() {
    let mut w = granted(100);
    w.rep(1).recall = 50;
    w.write(0, &pattern(1, 4096));
    w.pass(1_000_000);
    assert_eq!(w.rep(1).returned, 50);
    assert_eq!(w.seq.next_deadline(), None);
}

#[test]
fn a_large_write_is_not_starved_by_small_ones() {
    let mut w = granted(20);
    let big = w.write(0, &pattern(1, 40 * 4096));
    let small: Vec<u64> = (0..3).map(|i| w.write((100 + i) * 4096, &pattern(1, 4096))).collect();
    assert!(small.iter().all(|t| w.open(*t)));
    for d in 1..=3 {
        w.rep(d).granted = 60;
    }
    w.pass(60_000);
    assert!(w.ok(big) && small.iter().all(|t| w.ok(*t)));
}

#[test]
fn issued_slots_are_restated_after_a_reconnect() {
    let mut w = granted(1000);
    w.hold(3);
    w.write(0, &pattern(1, 8192));
    assert_eq!(w.seq.issued_slots(DriveId(3)), 3);
    assert_eq!(w.seq.issued_slots(DriveId(1)), 0);
}

#[test]
fn credits_that_an_idle_volume_does_not_need_go_back_once_and_then_it_is_silent() {
    let mut w = granted(1000);
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.ok(tag));
    w.pass(900_000);
    assert_eq!(w.rep(1).returned, 0, "a short pause costs nothing");
    w.pass(200_000);
    for d in 1..=3 {
        assert_eq!(w.rep(d).returned, 1000 - 2 - 257, "what the largest write needs stays");
    }
    assert_eq!(w.seq.next_deadline(), None);
    let tag = w.write(0, &pattern(1, 256 * 4096));
    assert!(w.ok(tag));
}

#[test]
fn credits_in_use_do_not_go_back() {
    let mut w = granted(1000);
    for i in 0..20 {
        let tag = w.write(i * 4096, &pattern(1, 4096));
        assert!(w.ok(tag));
        w.pass(300_000);
    }
    assert_eq!(w.rep(1).returned, 0);
    w.pass(1_500_000);
    assert_eq!(w.rep(1).returned, 1000 - 40 - 257);
}

#[test]
fn l2_a_drive_that_was_full_is_asked_again_before_a_write_fails() {
    let mut w = granted(2);
    for d in 1..=3 {
        w.rep(d).full = true;
    }
    w.write(0, &pattern(1, 4096));
    let tag = w.write(4096, &pattern(1, 4096));
    w.pass(60_000);
    assert_eq!(w.done[&tag], Err(IoError::NoSpace));
    w.pass(5_000_000);
    // Another volume was trimmed meanwhile; nobody told this one.
    for d in 1..=3 {
        w.rep(d).full = false;
        w.rep(d).granted = 10;
    }
    let tag = w.write(4096, &pattern(1, 4096));
    w.pass(200_000);
    assert!(w.ok(tag));
}

#[test]
fn credits_of_a_drive_that_is_silent_on_its_own_connection_are_asked_for_and_counted_around() {
    let mut w = granted(2);
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.pass(251_000);
    assert!(w.ok(tag), "answered around");
    let tag = w.write(4096, &pattern(2, 4096));
    assert!(w.open(tag), "every slot is used");
    for d in 1..=3 {
        w.rep(d).granted = 4;
    }
    w.pass(400_000);
    assert!(w.ok(tag), "its own connection is still silent");
}

#[test]
fn credits_of_a_drive_whose_connection_died_before_they_were_asked_for_are_asked_for_around() {
    let mut w = granted(2);
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.ok(tag));
    // Nothing was sent to it when the network broke: no answer that came around says that it is silent.
    w.hold(3);
    let tag = w.write(4096, &pattern(2, 4096));
    for d in 1..=3 {
        w.rep(d).granted = 4;
    }
    w.pass(700_000);
    assert!(w.ok(tag));
}

#[test]
fn who_does_not_reach_it_either_is_not_asked_again_and_again() {
    let mut w = granted(2);
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.ok(tag));
    w.hold(3);
    w.lose_relays(1);
    let tag = w.write(4096, &pattern(2, 4096));
    for d in 1..=3 {
        w.rep(d).granted = 4;
    }
    w.pass(600_000);
    assert!(w.ok(tag), "the second one was asked soon after it");
}

#[test]
fn slots_of_writes_that_end_without_a_drive_are_settled_there() {
    let mut w = granted(1000);
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4 * 4096));
    w.pass(10_000);
    assert!(w.open(tag));
    w.change(&[1, 2], &[], &[1, 2, 3]);
    w.push_map();
    assert!(w.ok(tag), "ended without it");
    w.forget_held(3);
    w.step(Event::DriveDown { drive: DriveId(3), refused: false });
    w.up(3);
    w.change(&[1, 2, 3], &[], &[1, 2, 3]);
    w.push_map();
    let tag = w.write(0, &pattern(1, 4096));
    assert!(w.ok(tag));
    w.pass(100_000);
    assert_eq!(w.rep(3).settled, 5 + 2, "what never arrived and what did");
    assert_eq!(w.rep(1).settled, 5 + 2);
}

#[test]
fn slots_of_a_write_that_may_still_arrive_are_not_settled() {
    let mut w = granted(10);
    w.hold(3);
    let late = w.write(0, &pattern(1, 4096));
    let other = w.write(4096, &pattern(1, 7 * 4096));
    assert!(w.open(late) && w.open(other));
    let waits = w.write(100 * 4096, &pattern(1, 4096));
    w.pass(60_000);
    assert!(w.open(waits));
    assert_eq!(w.rep(1).settled, 10, "polled for the write that waits");
    let (_, asked) = w.sent(MsgType::Stable).into_iter().rfind(|(drive, _)| *drive == 3).unwrap();
    assert_eq!(asked.meta[4..8], [0; 4], "both may still arrive");
    w.release(3);
    assert!(w.ok(late) && w.ok(other));
}

#[test]
fn a_drive_that_left_and_joined_meanwhile_is_charged_once_more_for_what_it_gets_once_more() {
    let mut w = granted(100);
    w.hold(2);
    let tag = w.write(0, &pattern(1, 4 * 4096));
    w.change(&[1, 2], &[], &[1, 2, 3]);
    w.push_map();
    w.change(&[1, 2], &[3], &[1, 2, 3]);
    w.push_map();
    assert!(w.open(tag));
    assert_eq!(w.sent(MsgType::Write).iter().filter(|(d, _)| *d == 3).count(), 2);
    w.release(2);
    assert!(w.ok(tag));
    w.pass(100_000);
    assert_eq!((w.rep(1).settled, w.rep(3).settled), (5, 10));
}
