//! A4 where holders of the highest version cannot give its bytes: EIO of a device, or rot.

use drystone_sequencer::*;
use drystone_types::*;

use crate::attach::{crashed, phantom};
use crate::world::{pattern, World, HEAD};

const BLOCK: u64 = 5;

/// Drive 1 is the only one in sync and alone has block 5 of a crashed client; drive 2 joins.
fn last_copy() -> World {
    let mut w = crashed();
    w.change(&[1], &[2], &[1, 2]);
    w.map.pools[0].min_insync = 1;
    phantom(&mut w, 1, BLOCK, 10, 1);
    w
}

fn read_is_eio(w: &mut World) -> bool {
    let read = w.io(Io::Read { offset: BLOCK * 4096, len: 4096 });
    w.pass(100_000);
    w.done[&read] == Err(IoError::Eio)
}

/// Rolls that say something about the block: (drive, flags).
fn told(w: &World) -> Vec<(u32, Flags)> {
    w.sent(MsgType::Write).iter().filter(|(_, f)| f.hdr.block == BLOCK).map(|(d, f)| (*d, f.hdr.flags)).collect()
}

fn dropped(w: &World) -> Vec<u32> {
    w.reports().iter().filter(|(_, what)| *what == ReportKind::DriveError).map(|(d, _)| *d).collect()
}

#[test]
fn a_device_error_at_one_of_several_holders_is_answered_by_another() {
    let mut w = crashed();
    phantom(&mut w, 1, BLOCK, 10, 1);
    phantom(&mut w, 2, BLOCK, 10, 1);
    w.rep(1).broken = vec![BLOCK];
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!(w.rep(3).cells[&(HEAD, BLOCK)].kind, 1);
    assert_eq!((w.seq.stats().rolls, w.seq.stats().rolls_bad, w.seq.stats().rolls_left), (1, 0, 0));
    assert!(dropped(&w).is_empty());
}

#[test]
fn a_device_error_at_the_last_holder_never_makes_a_block_bad_and_the_attach_ends() {
    let mut w = last_copy();
    w.rep(1).broken = vec![BLOCK];
    w.attach();
    assert_eq!(w.seq.state(), State::Rolling, "it looks again first");
    w.pass(15_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!((w.seq.stats().rolls_bad, w.seq.stats().rolls_left), (0, 1));
    assert_eq!(told(&w), [(2, Flags::ROLL.with(Flags::UNREAD))], "only that its copy must bring it");
    assert!(dropped(&w).is_empty());
    assert!(read_is_eio(&mut w));
    w.rep(1).broken.clear();
    assert_eq!(w.read(BLOCK * 4096, 4096), pattern(10, 4096), "nothing was lost");
}

#[test]
fn a_device_that_recovers_while_the_attach_waits_gives_its_bytes() {
    let mut w = last_copy();
    w.rep(1).broken = vec![BLOCK];
    w.attach();
    w.pass(3_000_000);
    assert_eq!(w.seq.state(), State::Rolling);
    w.rep(1).broken.clear();
    w.pass(5_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!((w.rep(2).cells[&(HEAD, BLOCK)].kind, w.seq.stats().rolls_left), (1, 0));
}

#[test]
fn rot_at_the_last_holder_is_bad_only_after_a_second_look_and_until_it_is_overwritten() {
    let mut w = last_copy();
    w.rep(1).rotten = vec![BLOCK];
    w.attach();
    w.pass(4_000_000);
    assert_eq!((w.seq.state(), w.seq.stats().rolls_bad), (State::Rolling, 0));
    w.pass(2_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!((w.seq.stats().rolls_bad, w.rep(2).cells[&(HEAD, BLOCK)].kind), (1, 4));
    assert!(read_is_eio(&mut w));
    w.rep(1).rotten.clear();
    w.write(BLOCK * 4096, &pattern(3, 4096));
    assert_eq!(w.read(BLOCK * 4096, 4096), pattern(3, 4096));
}

#[test]
fn rot_at_one_holder_and_a_device_error_at_the_other_is_not_proof() {
    let mut w = crashed();
    w.change(&[1, 2], &[3], &[1, 2, 3]);
    phantom(&mut w, 1, BLOCK, 10, 1);
    phantom(&mut w, 2, BLOCK, 10, 1);
    w.rep(1).rotten = vec![BLOCK];
    w.rep(2).broken = vec![BLOCK];
    w.attach();
    w.pass(20_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!((w.seq.stats().rolls_bad, w.seq.stats().rolls_left), (0, 1));
    assert!(read_is_eio(&mut w));
    w.rep(2).broken.clear();
    assert_eq!(w.read(BLOCK * 4096, 4096), pattern(10, 4096));
}

#[test]
fn rot_that_gives_way_to_a_device_error_begins_its_proof_again() {
    let mut w = last_copy();
    w.rep(1).rotten = vec![BLOCK];
    w.attach();
    w.pass(1_000_000);
    w.rep(1).rotten.clear();
    w.rep(1).broken = vec![BLOCK];
    w.pass(20_000_000);
    assert_eq!((w.seq.state(), w.seq.stats().rolls_bad), (State::Active, 0));
}

#[test]
fn a_joiner_that_cannot_take_the_block_from_its_copy_is_waited_for_until_it_left() {
    let mut w = last_copy();
    w.rep(1).broken = vec![BLOCK];
    w.rep(2).refuse = vec![(MsgType::Write, Status::Retry); 100_000];
    w.attach();
    w.pass(20_000_000);
    assert_eq!(w.seq.state(), State::Rolling);
    w.change(&[1], &[], &[1]);
    w.push_map();
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!(w.seq.stats().rolls_bad, 0);
}

#[test]
fn no_drive_is_dropped_for_a_block_that_the_others_have_given_up_already() {
    let mut w = crashed();
    phantom(&mut w, 1, BLOCK, 10, 1);
    phantom(&mut w, 2, BLOCK, 10, 4);
    phantom(&mut w, 3, BLOCK, 10, 4);
    w.rep(1).broken = vec![BLOCK];
    w.attach();
    w.pass(20_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert!(dropped(&w).is_empty() && told(&w).is_empty(), "{:?}", w.reports());
    assert!(read_is_eio(&mut w));
    w.rep(1).broken.clear();
    assert_eq!(w.read(BLOCK * 4096, 4096), pattern(10, 4096), "its holder still has it");
}

#[test]
fn an_unreadable_holder_that_is_not_the_last_copy_is_reported_for_its_drop_after_some_patience() {
    let mut w = crashed();
    phantom(&mut w, 1, BLOCK, 10, 1);
    w.rep(1).broken = vec![BLOCK];
    w.attach();
    assert!(dropped(&w).is_empty(), "the moment may pass");
    w.pass(20_000_000);
    assert_eq!(w.seq.state(), State::Rolling);
    assert!(dropped(&w).iter().all(|d| *d == 1) && !dropped(&w).is_empty());
    assert!(w.reports().iter().all(|(d, _)| *d == 1), "who never had it is not to blame");
    w.change(&[2, 3], &[], &[2, 3]);
    w.push_map();
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!(w.read(BLOCK * 4096, 4096), vec![0; 4096]);
}

#[test]
fn a_member_that_has_the_version_below_its_stable_value_gives_it() {
    let mut w = crashed();
    for drive in 1..=3 {
        phantom(&mut w, drive, BLOCK, 10, 1);
    }
    // Only drive 3 heard that it was acknowledged, so it does not name it.
    w.rep(3).stable = Version::new(1, 10);
    w.rep(1).broken = vec![BLOCK];
    w.rep(2).rotten = vec![BLOCK];
    w.attach();
    w.pass(1_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert!(dropped(&w).is_empty(), "no redundancy is given up for it");
    assert_eq!(w.read(BLOCK * 4096, 4096), pattern(10, 4096));
}

#[test]
fn a_record_that_says_bad_where_data_was_named_counts_as_rot_and_is_not_rolled_at_once() {
    let mut w = crashed();
    for drive in 1..=3 {
        phantom(&mut w, drive, BLOCK, 10, if drive == 3 { 4 } else { 1 });
    }
    w.rep(3).stable = Version::new(1, 10);
    w.rep(1).broken = vec![BLOCK];
    w.rep(2).broken = vec![BLOCK];
    w.attach();
    w.pass(1_000_000);
    assert_eq!((w.seq.state(), w.seq.stats().rolls_bad), (State::Rolling, 0));
    w.rep(2).broken.clear();
    w.pass(10_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!(w.read(BLOCK * 4096, 4096), pattern(10, 4096));
}

#[test]
fn many_blocks_that_cannot_be_read_are_waited_for_together() {
    let mut w = last_copy();
    for block in 0..600 {
        phantom(&mut w, 1, block, 10 + block, 1);
    }
    w.rep(1).broken = (0..600).collect();
    w.attach();
    w.pass(15_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!((w.seq.stats().rolls_left, w.seq.stats().rolls_bad), (600, 0));
}

#[test]
fn holders_of_an_acknowledged_version_are_not_dropped_because_one_of_them_did_not_name_it() {
    let mut w = crashed();
    for drive in 1..=3 {
        phantom(&mut w, drive, BLOCK, 10, 1);
    }
    (1..=3).for_each(|drive| w.rep(drive).in_sync = true);
    // Drive 3 alone heard that it was acknowledged; none of them can read it for a while, one for longer.
    w.rep(3).stable = Version::new(1, 10);
    w.rep(1).rotten = vec![BLOCK];
    w.rep(2).broken = vec![BLOCK];
    w.rep(3).broken = vec![BLOCK];
    w.attach();
    w.pass(20_000_000);
    assert_eq!((w.seq.state(), w.seq.stats().rolls_bad), (State::Active, 0));
    assert!(dropped(&w).is_empty(), "{:?}", w.reports());
    w.rep(2).broken.clear();
    assert_eq!(w.read(BLOCK * 4096, 4096), pattern(10, 4096));
}

#[test]
fn a_member_that_comes_and_goes_does_not_hold_up_an_attach_for_ever() {
    let mut w = last_copy();
    w.rep(1).broken = vec![BLOCK];
    w.attach();
    for _ in 0..8 {
        w.pass(3_000_000);
        w.change(&[1], &[], &[1]);
        w.push_map();
        w.pass(100_000);
        w.change(&[1], &[2], &[1, 2]);
        w.push_map();
    }
    w.pass(1_000_000);
    assert_eq!((w.seq.state(), w.seq.stats().rolls_bad), (State::Active, 0));
    assert!(dropped(&w).is_empty());
}

#[test]
fn a_joiner_that_restarts_during_an_attach_is_asked_again_what_it_has() {
    let mut w = crashed();
    w.change(&[1, 2], &[3], &[1, 2, 3]);
    // The joiner had copied the version; a process that starts anew has copied nothing.
    phantom(&mut w, 1, BLOCK, 10, 1);
    phantom(&mut w, 3, BLOCK, 10, 1);
    w.rep(1).broken = vec![BLOCK];
    w.rep(3).broken = vec![BLOCK];
    w.attach();
    w.pass(1_000_000);
    assert_eq!(w.seq.state(), State::Rolling);
    w.step(Event::DriveDown { drive: DriveId(3), refused: true });
    w.rep(3).cells.clear();
    w.rep(3).nonce = 2;
    w.up(3);
    w.rep(1).broken.clear();
    w.pass(10_000_000);
    assert_eq!(w.seq.state(), State::Active);
    assert_eq!(w.rep(2).cells[&(HEAD, BLOCK)].kind, 1);
    assert_eq!(w.rep(3).cells[&(HEAD, BLOCK)].kind, 1, "rolled to it although it had it once");
}
