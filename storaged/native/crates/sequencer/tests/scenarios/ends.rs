use drystone_sequencer::*;
use drystone_types::*;

use crate::world::{pattern, sealed, ticket, World, HEAD};

#[test]
fn b15_after_a_fenced_hand_over_issued_writes_are_eio_and_reads_may_be_issued_again() {
    let mut w = World::attached();
    w.answer = false;
    w.hold(3);
    let issued = w.write(0, &pattern(1, 4096));
    let waits = w.write(0, &pattern(2, 4096));
    let read = w.io(Io::Read { offset: 0, len: 4096 });
    for d in 1..=3 {
        w.rep(d).sealed = Gen(2);
    }
    w.release(3);
    assert_eq!(w.seq.state(), State::Fenced);
    assert_eq!(w.done[&issued], Err(IoError::Fenced));
    assert_eq!((w.done[&waits].clone(), w.done[&read].clone()), (Err(IoError::Unissued), Err(IoError::Unissued)));
    assert!(w.log.contains(&Action::Fenced(FenceReason::NewerGeneration(Gen(2)))));
    let later = w.io(Io::Flush);
    assert_eq!(w.done[&later], Err(IoError::Unissued));
    assert_eq!(w.seq.next_deadline(), None);
}

#[test]
fn a_stale_writer_completes_nothing_after_a_takeover() {
    let mut old = World::attached();
    old.write(0, &pattern(1, 4096));
    for d in 1..=3 {
        old.rep(d).sealed = Gen(2);
    }
    let write = old.write(4096, &pattern(2, 4096));
    assert_eq!(old.done[&write], Err(IoError::Fenced));
    assert!(!old.rep(1).cells.contains_key(&(HEAD, 1)));
}

#[test]
fn overlapping_read_and_write_then_a_client_crash_leaves_all_copies_equal() {
    let mut w = World::attached();
    w.write(0, &pattern(1, 4096));
    w.pass(100_000);
    w.hold(2);
    w.hold(3);
    let tag = w.write(0, &pattern(2, 4096));
    assert!(w.open(tag));
    let read = w.io(Io::Read { offset: 0, len: 4096 });
    assert!(w.open(read), "it waits for the write it overlaps");
    w.successor(2);
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!(w.read(0, 4096), pattern(2, 4096));
    let versions: Vec<_> = (1..=3).map(|d| w.rep(d).cells[&(HEAD, 0)].version).collect();
    assert_eq!(versions, vec![Version::new(1, 2); 3]);
}

#[test]
fn a_detach_drains_tells_stable_and_says_clean() {
    let mut w = World::attached();
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.step(Event::Detach { tag: 99 });
    assert!(w.open(tag));
    let late = w.write(4096, &pattern(1, 4096));
    assert_eq!(w.done[&late], Err(IoError::Unissued));
    w.release(3);
    assert!(w.ok(tag));
    assert_eq!(w.log.last(), Some(&Action::Detached { tag: 99, clean: true }));
    assert_eq!(w.rep(1).stable, Version::new(1, 1));
    assert_eq!((w.seq.state(), w.seq.next_deadline()), (State::Detached, None));
}

#[test]
fn a_detach_that_cannot_drain_ends_at_its_deadline_and_is_not_clean() {
    let mut w = World::attached();
    w.hold(3);
    w.hold(1);
    w.hold(2);
    let tag = w.write(0, &pattern(1, 4096));
    w.step(Event::Detach { tag: 99 });
    w.pass(11_000_000);
    assert!(w.log.contains(&Action::Detached { tag: 99, clean: false }));
    assert_eq!(w.done[&tag], Err(IoError::Fenced));
}

#[test]
fn a_detach_before_active_is_not_clean() {
    let mut w = World::idle(1, &ticket(1), Config::default());
    w.hold(3);
    w.attach();
    w.step(Event::Detach { tag: 5 });
    assert!(w.log.contains(&Action::Detached { tag: 5, clean: false }));
}

#[test]
fn a_yield_drains_and_then_nothing_is_started_any_more() {
    let mut w = World::attached();
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.step(Event::Yield);
    let queued = w.write(4096, &pattern(2, 4096));
    w.release(3);
    assert!(w.ok(tag) && w.open(queued));
    assert_eq!(w.log.iter().filter(|a| **a == Action::Yielded { drained: true }).count(), 1);
    w.step(Event::FencedByManager);
    assert_eq!(w.done[&queued], Err(IoError::Unissued));
}

#[test]
fn l8_a_yield_that_cannot_drain_is_busy_and_the_owner_goes_on() {
    let mut w = World::attached();
    for d in 1..=3 {
        w.hold(d);
    }
    let tag = w.write(0, &pattern(1, 4096));
    w.step(Event::Yield);
    let queued = w.write(8192, &pattern(2, 4096));
    w.pass(10_500_000);
    assert!(w.log.contains(&Action::Yielded { drained: false }));
    for d in 1..=3 {
        w.release(d);
    }
    assert!(w.ok(tag) && w.ok(queued));
}

#[test]
fn a_resize_is_effective_when_every_member_has_the_ticket() {
    let mut w = World::attached();
    let mut t = ticket(1);
    t.serial = 2;
    t.size *= 2;
    w.hold(2);
    w.step(Event::Ticket(sealed(&t)));
    let early = w.write(t.size - 4096, &pattern(1, 4096));
    assert_eq!(w.done[&early], Err(IoError::Invalid));
    w.release(2);
    assert!(w.log.contains(&Action::TicketInForce { serial: 2 }));
    assert_eq!(w.seq.size(), t.size);
    let tag = w.write(t.size - 4096, &pattern(1, 4096));
    assert!(w.ok(tag));
    w.step(Event::Ticket(sealed(&ticket(1))));
    assert_eq!(w.seq.size(), t.size, "a lower serial never replaces a higher one");
}

#[test]
fn s3_a_new_head_cuts_between_two_issues_and_is_frozen_when_stable_has_reached_the_cut() {
    let mut w = World::attached();
    w.write(0, &pattern(1, 4096));
    w.hold(3);
    let before = w.write(4096, &pattern(2, 4096));
    let mut t = ticket(1);
    t.serial = 2;
    t.chain = vec![(LayerId(71), Version::ZERO), (HEAD, Version::ZERO)];
    w.step(Event::Ticket(sealed(&t)));
    // The LAYER of drive 3 is held, so writes still go to the old head.
    assert!(!w.log.iter().any(|a| matches!(a, Action::Cut { .. })));
    w.release(3);
    assert!(w.ok(before));
    let cut = Action::Cut { layer: HEAD, cut: Version::new(1, 2) };
    let frozen = Action::Frozen { layer: HEAD, cut: Version::new(1, 2) };
    assert!(w.log.contains(&cut) && w.log.contains(&frozen));
    w.write(0, &pattern(9, 4096));
    assert!(w.rep(1).cells.contains_key(&(LayerId(71), 0)));
    assert_eq!(w.read(0, 8192), [pattern(9, 4096), pattern(2, 4096)].concat());
    assert_eq!(w.rep(2).frozen, vec![(HEAD, Version::new(1, 2))]);
}
