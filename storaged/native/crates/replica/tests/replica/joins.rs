//! ADOPT, joining, void blocks, restamping.

use crate::rig::*;
use drystone_replica::{Action, Event, Facts, StoredRole};
use drystone_store::api::ObjectStore;
use drystone_types::*;

#[test]
fn a_joiner_answers_retry_until_the_generations_are_applied() {
    let mut rig = joining();
    assert!(rig.has(|a| matches!(a, Action::NeedGenerations { pool: PoolId(1), since: Rev(0) })));
    assert_eq!(rig.write(1, 10, 5, 1), Status::Retry);
    rig.generations(2, &[]);
    assert_eq!(rig.write(1, 10, 5, 1), Status::Retry, "a list read before the join proves nothing");
    rig.generations(3, &[(VOL, Gen(1), 1)]);
    assert_eq!(rig.write(1, 10, 5, 1), Status::Ok);
}

#[test]
fn b9_generations_are_asked_since_the_last_list_that_was_applied_here() {
    let mut rig = joining();
    rig.generations(7, &[]);
    rig.map(map(8, 4, &[1, 2], &[]));
    let mut rig = rig.restart(2);
    rig.map(map(8, 4, &[1, 2], &[]));
    rig.map(map(9, 5, &[1, 2], &[joiner(3, 5, 1)]));
    assert!(rig.has(|a| matches!(a, Action::NeedGenerations { since: Rev(7), .. })));
}

#[test]
fn a_join_adopts_the_generations_of_the_store() {
    let mut rig = joining();
    rig.generations(3, &[(VOL, Gen(4), 44)]);
    assert_eq!(rig.write(1, 10, 5, 1), Status::NackGen);
    let seal = rig.seal_frame(4, &ticket(4, 45));
    assert_eq!(rig.call(seal).hdr.status, Status::NackGen, "another nonce");
    let layer = rig.layer_frame(4, &ticket(4, 44));
    assert_eq!(rig.call(layer).hdr.status, Status::Ok);
    assert_eq!(rig.write(4, 1, 5, 1), Status::Ok);
}

#[test]
fn b7_a_join_waits_until_everything_admitted_is_durable() {
    let mut rig = Rig::active(3);
    let frame = rig.write_frame(1, 1, 0, 64, 1);
    rig.send(frame);
    rig.event(Event::Map(map(2, 3, &[1, 2], &[joiner(3, 3, 1)])));
    assert!(!rig.has(|a| matches!(a, Action::NeedGenerations { .. })));
    rig.run();
    assert_eq!(rig.statuses(), [Status::NackEpoch]);
    assert!(rig.has(|a| matches!(a, Action::NeedGenerations { .. })));
}

#[test]
fn r5_a_void_block_takes_a_direct_write_whatever_its_old_version_was() {
    let mut rig = joining();
    rig.generations(3, &[]);
    assert_eq!(rig.write(1, 5, 0, 5), Status::Ok);
    assert_eq!(rig.count("void_writes"), 1);
    assert_eq!(rig.write(1, 4, 0, 4), Status::Ok);
    assert_eq!(rig.count("void_writes"), 1, "written since the join: no longer void");
    assert_eq!(rig.seal(2).entries, [(LAYER.0, 0, 1, 5, 1)]);
}

#[test]
fn a_joiner_stores_no_foreign_layer_at_a_stable_version() {
    let mut rig = joining();
    rig.generations(3, &[]);
    assert_eq!(rig.stable(1, Version::new(1, 5)).hdr.status, Status::Ok);
    let mut write = rig.write_frame(1, 3, 7, 1, 1);
    write.hdr.layer = LayerId(999);
    assert_eq!(rig.call(write).hdr.status, Status::NeedTicket);
    let trim = Header { block: 7, count: 1, seq: 3, layer: LayerId(999), ..rig.hdr(MsgType::Trim, 1) };
    assert_eq!(rig.call(Frame::bare(trim)).hdr.status, Status::NeedTicket);
    assert_eq!(rig.count("void_writes"), 0);
    assert_eq!(rig.write(1, 3, 7, 1), Status::Ok, "the own layer of a void block");
}

#[test]
fn a_seal_never_lists_void_blocks() {
    let mut rig = joining();
    rig.generations(3, &[]);
    assert_eq!(rig.write(1, 10, 5, 1), Status::Ok);
    assert_eq!(rig.seal(2).entries, [(LAYER.0, 5, 1, 10, 1)]);
}

#[test]
fn a_joiner_never_answers_a_read_except_an_exact_one() {
    let mut rig = joining();
    rig.generations(3, &[]);
    assert_eq!(rig.write(1, 10, 5, 7), Status::Ok);
    assert_eq!(rig.read(1, 5).hdr.status, Status::NackEpoch);
    let exact = |rig: &mut Rig, block, seq| {
        let mut hdr = rig.hdr(MsgType::Read, 1);
        (hdr.flags, hdr.seq, hdr.count, hdr.block) = (Flags::ROLL, seq, 1, block);
        rig.call(Frame::bare(hdr))
    };
    assert_eq!(exact(&mut rig, 5, 10).data.as_slice()[0], 7);
    assert_eq!(exact(&mut rig, 0, 9).hdr.status, Status::Invalid, "void");
}

#[test]
fn p20_since_join_marks_survive_a_restart_of_the_joiner() {
    let mut rig = joining();
    rig.generations(3, &[]);
    assert_eq!(rig.write(1, 10, 0, 10), Status::Ok);
    let mut rig = rig.restart(2);
    rig.map(map(3, 3, &[1, 2], &[joiner(3, 3, 1)]));
    assert_eq!(rig.write(1, 4, 0, 4), Status::Ok);
    assert_eq!(rig.count("void_writes"), 0, "an old duplicate does not replace it");
}

#[test]
fn a_new_join_voids_what_an_earlier_join_wrote() {
    let mut rig = joining();
    rig.generations(3, &[]);
    assert_eq!(rig.write(1, 10, 0, 10), Status::Ok);
    rig.map(map(4, 4, &[1, 2], &[]));
    rig.map(map(5, 5, &[1, 2], &[joiner(3, 5, 1)]));
    rig.generations(5, &[]);
    assert!(rig.seal(2).entries.is_empty());
    assert_eq!(rig.write(2, 1, 0, 4), Status::Ok);
    assert_eq!(rig.count("void_writes"), 2);
}

#[test]
fn b2_adopting_an_epoch_restamps_objects_with_entries_above_stable() {
    use drystone_store::api::ObjectStore;
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    assert!(rig.r.store().changed_chunks(PG, Epoch(2), None, 10).is_empty());
    rig.map(map(2, 2, &[1, 2], &[]));
    assert_eq!(rig.r.store().changed_chunks(PG, Epoch(2), None, 10), [(VOL, 0)]);
    assert_eq!(rig.stable(1, Version::new(1, 1)).hdr.status, Status::Ok);
    rig.map(map(3, 3, &[1], &[]));
    assert!(rig.r.store().changed_chunks(PG, Epoch(3), None, 10).is_empty());
}

#[test]
fn b2_the_first_ok_of_an_epoch_waits_for_its_restamping() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.event(Event::Map(map(2, 2, &[1, 2], &[])));
    (rig.rev, rig.epoch) = (2, 2);
    let touch = rig.dev.clone();
    assert_eq!(touch.len(), 1);
    let frame = rig.write_frame(1, 2, 64, 64, 2);
    rig.send(frame);
    for id in rig.dev.clone().into_iter().filter(|id| !touch.contains(id)) {
        rig.complete(id);
    }
    assert!(rig.take_answers().is_empty());
    rig.run();
    assert_eq!(rig.statuses(), [Status::Ok]);
}

#[test]
fn b1_an_ok_of_the_old_epoch_never_leaves_after_a_join_was_adopted() {
    let mut rig = Rig::active(1);
    let frame = rig.write_frame(1, 1, 0, 64, 1);
    rig.send(frame.clone());
    rig.event(Event::Map(map(2, 2, &[1, 2, 3], &[joiner(4, 2, 0)])));
    rig.run();
    assert_eq!(rig.statuses(), [Status::NackEpoch]);
    (rig.rev, rig.epoch) = (2, 2);
    let mut again = frame;
    again.hdr.pg_epoch = Epoch(2);
    assert_eq!(rig.call(again).hdr.status, Status::Ok);
}

#[test]
fn a_drive_that_left_forgets_no_data_but_answers_nothing() {
    let mut rig = Rig::active(3);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.map(map(2, 2, &[1, 2], &[]));
    assert_eq!(rig.read(1, 0).hdr.status, Status::NackEpoch);
    assert!(rig.seal(2).pgs.is_empty());
}

#[test]
fn l1_a_joiner_that_knows_the_generation_only_from_the_store_grants_credits_with_the_ticket() {
    let mut rig = Rig::new(3);
    rig.map(map(3, 3, &[1, 2], &[joiner(3, 3, 0)]));
    rig.generations(3, &[(VOL, Gen(4), 44)]);
    let layer = rig.layer_frame(4, &ticket(4, 44));
    let answer = rig.call(layer);
    assert_eq!(answer.hdr.status, Status::Ok);
    assert!(answer.hdr.credits >= 257);
}

#[test]
fn b2_a_drive_that_leaves_stamps_what_is_not_stable() {
    let mut rig = Rig::active(3);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.map(map(2, 2, &[1, 2], &[]));
    let named = rig.r.store().changed_chunks(PG, Epoch(2), None, 10);
    assert_eq!(named.len(), 1, "the delta of its next join must look at the write that nobody else may have");
}

#[test]
fn b2_a_drive_that_left_before_it_was_opened_stamps_what_is_not_stable() {
    let mut rig = Rig::active(3);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    let mut rig = rig.restart(2);
    rig.map(map(2, 2, &[1, 2], &[]));
    let named = rig.r.store().changed_chunks(PG, Epoch(2), None, 10);
    assert_eq!(named.len(), 1);
}

/// What the log says of the drive's part in the PG: epoch and role, as a recovery reads it.
fn noted(rig: &Rig) -> (Epoch, StoredRole) {
    let metas = rig.r.store().metas();
    let facts = Facts::read(metas.iter().map(|(key, value)| (*key, value.as_slice())));
    let pg = facts.pgs.get(&PG).copied().unwrap_or_default();
    (pg.epoch, pg.role)
}

#[test]
fn a_drive_that_leaves_a_group_notes_that_it_is_out_since_which_epoch() {
    let mut rig = Rig::active(1);
    rig.advance(2_000_000);
    rig.run();
    assert_eq!(noted(&rig), (Epoch(1), StoredRole::InSync));
    rig.map(map(2, 2, &[2, 3], &[]));
    let mut rig = rig.restart(2);
    assert_eq!(noted(&rig), (Epoch(2), StoredRole::Out), "it is durable");
    // Later epochs of a group are no business of a drive that is out of it.
    rig.map(map(3, 3, &[2], &[]));
    assert_eq!(noted(&rig), (Epoch(2), StoredRole::Out));
    // It returns.
    rig.map(map(4, 4, &[2], &[joiner(1, 4, 1)]));
    rig.generations(4, &[]);
    rig.map(map(5, 5, &[2, 1], &[]));
    let rig = rig.restart(3);
    assert_eq!(noted(&rig), (Epoch(5), StoredRole::InSync));
}

#[test]
fn a_drive_that_left_a_group_before_it_noted_anything_of_it_notes_that_too() {
    let mut rig = Rig::active(1);
    rig.map(map(2, 2, &[2, 3], &[]));
    let rig = rig.restart(2);
    assert_eq!(noted(&rig), (Epoch(2), StoredRole::Out));
}

#[test]
fn a_drive_that_was_dropped_while_it_was_away_notes_it_at_the_first_map() {
    let mut rig = Rig::active(1);
    rig.advance(2_000_000);
    rig.run();
    let mut rig = rig.restart(2);
    // An older copy of the map proves nothing.
    rig.map(map(2, 1, &[2, 3], &[]));
    assert_eq!(noted(&rig), (Epoch(1), StoredRole::InSync));
    let mut rig = rig.restart(3);
    rig.map(map(3, 3, &[2, 3], &[]));
    let rig = rig.restart(4);
    assert_eq!(noted(&rig), (Epoch(3), StoredRole::Out));
}
