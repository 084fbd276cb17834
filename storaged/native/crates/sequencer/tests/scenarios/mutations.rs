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
