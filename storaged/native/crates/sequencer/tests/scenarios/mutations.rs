//! Each rule of the sequencer switched off has an effect that the rule prevents.

use drystone_sequencer::*;
use drystone_types::*;

use crate::replica::Cell;
use crate::world::{pattern, ticket, World, HEAD};

fn off(rule: Rule) -> Config {
    Config { rules: Rules::without(rule), ..Config::default() }
}

fn attached(rule: Rule) -> World {
    let mut w = World::attached_with(1, &ticket(1), off(rule));
    w.catch = true;
    w
}

#[test]
fn without_w1_a_read_overtakes_the_write_it_overlaps() {
    let mut w = attached(Rule::W1);
    w.hold(3);
    let write = w.write(0, &pattern(1, 4096));
    let read = w.io(Io::Read { offset: 0, len: 4096 });
    assert!(w.open(write) && !w.open(read));
}

#[test]
fn without_w2_acks_of_two_epochs_add_up_and_i5_notices() {
    let mut w = attached(Rule::W2);
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.change(&[1, 2, 3], &[4], &[1, 2, 3]);
    w.push_map();
    w.release(3);
    assert!(!w.open(tag));
    assert!(w.log.iter().any(|a| matches!(a, Action::Invariant(_))));
}

#[test]
fn without_store_cas_before_ack_a_silent_member_is_skipped_and_i5_notices() {
    let mut w = attached(Rule::StoreCasBeforeAck);
    w.hold(1);
    w.hold(2);
    w.hold(3);
    let tag = w.write(0, &pattern(1, 4096));
    w.release(1);
    w.step(Event::DriveDown { drive: DriveId(1), refused: false });
    w.pass(300_000);
    assert!(!w.open(tag));
    assert!(w.log.iter().any(|a| matches!(a, Action::Invariant(_))));
}

fn crashed(rule: Rule) -> World {
    let mut w = World::idle(1, &ticket(2), off(rule));
    let pg = PgId { pool: PoolId(1), pg: 0 };
    let data = Buf::copy_from(&pattern(1, 4096));
    w.rep(1).cells.insert((HEAD, 5), Cell { version: Version::new(1, 10), kind: 1, data, pg });
    w
}

#[test]
fn without_a3_replies_of_an_older_epoch_count() {
    let mut w = crashed(Rule::A3);
    w.hold(3);
    w.attach();
    w.change(&[1, 2, 3], &[], &[]);
    w.push_map();
    w.release(3);
    assert_eq!(w.seq.stats().seals_discarded, 0);
    assert_ne!(w.seq.state(), State::Sealing);
}

#[test]
fn without_a4_copies_stay_different() {
    let mut w = crashed(Rule::A4);
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    assert!(w.rep(2).cells.is_empty());
}

#[test]
fn without_a5_the_volume_is_active_before_it_is_rolled_and_without_the_store() {
    let mut w = crashed(Rule::A5);
    w.activate = false;
    w.rep(2).refuse = vec![(MsgType::Write, Status::Retry); 100];
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    assert!(w.rep(2).cells.is_empty());
}

#[test]
fn without_w1_socket_a_range_is_free_before_its_answer_is_in_the_socket() {
    for (rules, free) in [(Rules::ALL, false), (Rules::without(Rule::W1Socket), true)] {
        let mut w = World::attached_with(1, &ticket(1), Config { rules, ..Config::default() });
        w.answer = false;
        let first = w.write(0, &pattern(1, 4096));
        let second = w.write(0, &pattern(2, 4096));
        assert!(w.ok(first));
        assert_eq!(w.ok(second), free);
        w.step(Event::Answered { tag: first });
        assert!(w.ok(second));
    }
}

#[test]
fn without_presence_own_a_parent_answers_for_the_own_lineage() {
    for (rules, parent_alone) in [(Rules::ALL, false), (Rules::without(Rule::PresenceOwn), true)] {
        let mut w = crate::clones::clone_with(Config { rules, ..Config::default() });
        w.read(0, 4096);
        (1..=3).for_each(|d| w.hold(d));
        let tag = w.io(Io::Read { offset: 0, len: 4096 });
        let parents: Vec<_> = w.held.drain(..).filter(|ask| ask.2.hdr.layer != HEAD).collect();
        for (drive, _, frame) in parents {
            for answer in w.rep(drive.0).handle(&frame) {
                w.step(Event::Frame { drive, frame: answer });
            }
        }
        assert_eq!(!w.open(tag), parent_alone);
    }
}

#[test]
fn without_stable_zero_an_attach_calls_older_generations_stable_before_they_are_rolled() {
    for (rules, zero) in [(Rules::ALL, true), (Rules::without(Rule::StableZero), false)] {
        let mut w = World::idle(1, &ticket(2), Config { rules, ..Config::default() });
        w.activate = false;
        w.attach();
        let sent = w.sent(MsgType::Seal);
        assert!(!sent.is_empty());
        assert!(sent.iter().all(|(_, frame)| (frame.hdr.stable == Version::ZERO) == zero));
    }
}
