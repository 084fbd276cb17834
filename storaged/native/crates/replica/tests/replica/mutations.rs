//! Each rule that can be switched off makes its directed case go wrong: the tests above it
//! would notice. Built with the feature `mutations` only.

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Config, Event};
use drystone_store::api::ObjectStore;
use drystone_types::*;

fn without(rule: Rule, drive: u32) -> Rig {
    Rig::active_as(Config { rules: Rules::without(rule), ..config(drive) })
}

/// A broken rule may break an invariant: the rig must not fail for that here.
fn end(rig: Rig) {
    std::mem::forget(rig);
}

#[test]
fn without_r1_a_write_of_an_old_epoch_is_applied_and_i3_says_so() {
    let mut rig = without(Rule::R1, 1);
    rig.map(map(2, 2, &[1, 2], &[]));
    rig.epoch = 1;
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    rig.call(frame);
    assert_eq!(rig.byte(1, 0), Some(1));
    assert!(rig.count("invariants") > 0);
    end(rig);
}

#[test]
fn without_r2_a_late_write_of_a_fenced_client_lands() {
    let mut rig = without(Rule::R2, 1);
    rig.seal(2);
    let mut late = rig.write_frame(1, 1, 0, 1, 1);
    late.hdr.gen = Gen(1);
    let layer = rig.layer_frame(1, &ticket(1, 2));
    rig.call(layer);
    rig.call(late);
    assert!(rig.count("blocks_written") == 0 || rig.count("invariants") > 0);
    end(rig);
}

#[test]
fn without_r5_a_joiner_takes_a_void_block_for_the_write() {
    let mut rig = without(Rule::R5, 3);
    assert_eq!(rig.write(1, 9, 0, 9), Status::Ok);
    rig.map(map(2, 2, &[1, 2], &[]));
    rig.map(map(3, 3, &[1, 2], &[joiner(3, 3, 1)]));
    rig.generations(3, &[]);
    assert_eq!(rig.write(1, 9, 0, 9), Status::Ok);
    assert_eq!(rig.count("blocks_written"), 1, "acked, yet nothing of this join holds it");
}

#[test]
fn without_r6b_a_duplicate_is_acked_before_the_original_is_durable() {
    let mut rig = without(Rule::R6b, 1);
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(frame.clone());
    rig.send_from(SERVER, frame);
    assert_eq!(rig.statuses(), [Status::Ok]);
}

#[test]
fn without_r6c_an_ok_of_an_old_epoch_leaves() {
    let mut rig = without(Rule::R6c, 1);
    let frame = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(frame);
    rig.event(Event::Map(map(2, 2, &[1, 2], &[])));
    rig.run();
    assert_eq!(rig.statuses(), [Status::Ok]);
}

#[test]
fn without_seal_drains_a_seal_overtakes_a_large_write() {
    let mut rig = without(Rule::SealDrains, 1);
    let frame = rig.write_frame(1, 1, 0, 64, 1);
    rig.send(frame);
    let large = rig.dev[0];
    let seal = rig.seal_frame(2, &ticket(2, 2));
    rig.send(seal);
    while let Some(id) = rig.dev.iter().copied().find(|id| *id != large) {
        rig.complete(id);
    }
    let answers = rig.take_answers();
    assert!(seal_reply(&answers[0]).entries.is_empty());
}

#[test]
fn without_adopt_restamps_a_delta_resync_misses_the_object() {
    let mut rig = without(Rule::AdoptRestamps, 1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.map(map(2, 2, &[1, 2], &[]));
    assert!(rig.r.store().changed_chunks(PG, Epoch(2), None, 10).is_empty());
}

#[test]
fn without_source_wins_a_phantom_survives_the_copy() {
    let mut w = World::new();
    w.drives.insert(3, without(Rule::SourceWins, 3));
    w.write(&[1, 2, 3], 1, 1, 0, 1);
    w.write(&[3], 1, 50, 0, 50);
    w.map(map(2, 2, &[1, 2], &[]));
    w.rejoin(2, 1);
    w.settle();
    assert_ne!(w.chunk(1, 0), w.chunk(3, 0));
}

#[test]
fn without_the_read_lease_a_zombie_answers_reads() {
    let mut rig = without(Rule::ReadLease, 1);
    assert_eq!(rig.write(1, 1, 0, 8), Status::Ok);
    rig.event(Event::Lease { valid_until: 0 });
    assert_eq!(rig.byte(1, 0), Some(8));
}
