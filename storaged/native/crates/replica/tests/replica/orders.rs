//! What must be in the log and is refused: orders, generations, credits, promises.

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Action, Config, Control, ControlResult, Event, LeaveWhy, PeerId, PeerInfo, PeerRole, Report};
use drystone_store::api::{AppendError, MetaKey, ObjectStore, Record};
use drystone_types::*;

const FREE: Control = Control::FreeLayer { layer: LAYER };

fn deletes_a_seal(rec: &Record) -> bool {
    matches!(rec, Record::Meta(MetaKey::Seal(_), value) if value.is_empty())
}

fn seals(rec: &Record) -> bool {
    matches!(rec, Record::Meta(MetaKey::Seal(_), _))
}

fn is_of_drive(rec: &Record) -> bool {
    matches!(rec, Record::Meta(MetaKey::Drive(_), _))
}

fn grants(rec: &Record) -> bool {
    matches!(rec, Record::Meta(MetaKey::Grant(_), _))
}

fn of_volume(rig: &Rig) -> Vec<MetaKey> {
    let keys = rig.r.store().metas().into_iter().map(|(key, _)| key);
    keys.filter(|k| matches!(k, MetaKey::Seal(_) | MetaKey::Stable(_) | MetaKey::Grant(_))).collect()
}

#[test]
fn a_deletion_that_the_log_refuses_fails_the_order_and_the_repeated_order_does_it() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.r.store_mut().refuse(Some((deletes_a_seal, AppendError::Full)));
    assert!(matches!(rig.control(FREE), ControlResult::Failed(_)));
    rig.out.clear();
    // A restart in between forgets nothing that the repeated order needs.
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert_eq!(of_volume(&rig), [MetaKey::Seal(VOL)]);
    assert_eq!(rig.control(FREE), ControlResult::Done);
    let rig = rig.restart(3);
    assert_eq!(of_volume(&rig), []);
    assert_eq!(rig.r.store().space().granted, 0);
}

#[test]
fn a_layer_is_not_freed_while_the_list_of_freed_layers_is_refused() {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.stable(&[1, 2, 3], 1, Version::new(1, 1));
    w.drive(1).r.store_mut().refuse(Some((is_of_drive, AppendError::Full)));
    assert!(matches!(w.drive(1).control(FREE), ControlResult::Failed(_)));
    assert!(w.drive(1).r.store().space().live > 0);
    w.drive(1).out.clear();
    w.drive(1).r.store_mut().refuse(None);
    assert_eq!(w.drive(1).control(FREE), ControlResult::Done);
    // Its peers have the layer still: after a restart it must not seem to have lost it.
    let checked = Config { peer_check: true, open_nonce: 2, ..config(1) };
    let rig = w.drives.remove(&1).unwrap().restart_as(checked);
    w.drives.insert(1, rig);
    w.drive(1).map(map(1, 1, &[1, 2, 3], &[]));
    w.settle();
    assert_eq!((w.drive(1).count("peer_checks"), w.drive(1).count("peer_checks_failed")), (1, 0));
}

#[test]
fn an_order_is_done_only_when_everything_it_deletes_is_durable() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.event(Event::Control { id: 7, req: FREE });
    let done = |rig: &Rig| rig.has(|a| matches!(a, Action::ControlDone { id: 7, result: ControlResult::Done }));
    while !done(&rig) {
        assert!(!rig.dev.is_empty(), "the order never ends");
        let id = rig.dev[0];
        rig.complete(id);
    }
    assert!(rig.dev.is_empty());
    let rig = rig.restart(2);
    assert_eq!(of_volume(&rig), []);
}

#[test]
fn a_joiner_that_cannot_log_a_generation_fails_and_never_admits_the_old_writer() {
    for why in [AppendError::Full, AppendError::Failed] {
        let mut rig = joining();
        rig.r.store_mut().refuse(Some((seals, why)));
        rig.generations(3, &[(VOL, Gen(4), 44)]);
        assert!(rig.has(|a| matches!(a, Action::Report(Report::DriveFailed(_)))), "{why:?}");
        assert!(rig.has(|a| matches!(a, Action::LeavePg { why: LeaveWhy::DriveFailed, .. })), "{why:?}");
        let next = rig.r.next_deadline().unwrap();
        assert!(next > rig.now + 1_000_000, "a failed drive only wakes to ask again, at {next}");
        assert_eq!(rig.write(1, 10, 5, 1), Status::Eio);
        assert_eq!(rig.write(4, 1, 5, 1), Status::Eio);
        // The list may count as applied by then: what a restart finds must not admit generation 1 either,
        // so the drive is dropped and joins anew, asking since a revision before the list or being blank.
        assert!(!rig.has(|a| matches!(a, Action::CopyComplete { .. })));
    }
}

#[test]
fn a_joiner_whose_list_of_generations_is_not_logged_stays_closed_and_asks_again() {
    let mut rig = joining();
    rig.out.clear();
    rig.r.store_mut().refuse(Some((is_of_drive, AppendError::Full)));
    rig.generations(3, &[]);
    assert_eq!(rig.write(1, 10, 5, 1), Status::Retry);
    rig.r.store_mut().refuse(None);
    rig.advance(600_000);
    assert!(rig.has(|a| matches!(a, Action::NeedGenerations { since: Rev(0), .. } | Action::NeedGenerations { .. })));
    rig.generations(3, &[]);
    assert_eq!(rig.write(1, 10, 5, 1), Status::Ok);
}

#[test]
fn a_seal_that_the_log_refuses_is_not_answered_ok() {
    let mut rig = Rig::active(1);
    rig.r.store_mut().refuse(Some((seals, AppendError::Full)));
    let seal = rig.seal_frame(2, &ticket(2, 2));
    assert_eq!(rig.call(seal).hdr.status, Status::Eio);
    assert_eq!(rig.write(1, 1, 0, 1), Status::NackGen, "and the old generation stays shut out");
    assert!(matches!(rig.control(Control::Fence { vol: VOL, gen: Gen(3), nonce: 3 }), ControlResult::Failed(_)));
}

#[test]
fn a_bound_of_credits_that_is_not_in_the_log_grants_nothing() {
    let mut rig = Rig::active(1);
    rig.r.store_mut().refuse(Some((grants, AppendError::Full)));
    let seal = rig.seal_frame(2, &ticket(2, 2));
    let answer = rig.call(seal);
    assert_eq!((answer.hdr.status, answer.hdr.credits), (Status::Ok, 0));
    // A poll tries again, and is not stuck for ever by one refusal.
    assert_eq!(rig.stable(2, Version::ZERO).hdr.credits, 0);
    rig.r.store_mut().refuse(None);
    let credits = (0..8).map(|_| rig.stable(2, Version::ZERO).hdr.credits).last();
    assert!(credits.unwrap() >= 257);
}

#[test]
fn l3_credits_after_a_restart_never_exceed_what_the_drive_has() {
    let mut rig = Rig::open(config(1), drystone_store::testing::NaiveStore::new(3_000));
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    rig.seal(1);
    for nonce in 2..10 {
        let told = rig.stable(1, Version::ZERO).hdr.credits;
        assert!(told > 0);
        rig = rig.restart(nonce);
        let space = rig.r.store().space();
        assert!(space.granted >= u64::from(told), "what may be on its way stays reserved");
        assert!(space.live + space.reserve + space.granted <= space.total, "{space:?}");
        rig.map(map(1, 1, &[1, 2, 3], &[]));
        // What was issued before the cut is restated, and arrives.
        let mut w = Writer::new();
        w.u32(1).u32(1).u64(1).u32(1).u64(VOL.0).u32(1).u32(2);
        let hdr = rig.hdr(MsgType::Session, 0);
        assert_eq!(rig.call(Frame::with_meta(hdr, w.finish())).hdr.status, Status::Ok);
        assert_eq!(rig.write(1, nonce, nonce, 1), Status::Ok);
    }
}

#[test]
fn a_peers_quiesce_that_is_not_in_the_log_is_no_proof() {
    let mut rig = Rig::active(1);
    let peer = PeerId(8);
    let info = PeerInfo { role: PeerRole::Server, uuid: Uuid([8; 16]) };
    rig.event(Event::PeerUp { peer, info });
    rig.r.store_mut().refuse(Some((|r| matches!(r, Record::Meta(MetaKey::Adopt(_), _)), AppendError::Full)));
    let frame = Frame::with_meta(rig.hdr(MsgType::Quiesce, 0), Vec::new());
    assert_eq!(rig.call_from(peer, frame.clone()).hdr.status, Status::Retry);
    rig.r.store_mut().refuse(None);
    assert_eq!(rig.call_from(peer, frame).hdr.status, Status::Ok);
}

/// The drop compares the open nonce of the process that promised: a device that hangs must not keep its own drive in.
#[test]
fn a_managers_quiesce_does_not_wait_for_the_device() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 8), Status::Ok);
    rig.r.store_mut().refuse(Some((|r| matches!(r, Record::Meta(MetaKey::Adopt(_), _)), AppendError::Full)));
    assert_eq!(rig.control(Control::Quiesce { pg: PG, epoch: Epoch(1) }), ControlResult::Done);
    assert_eq!(rig.read(1, 0).hdr.status, Status::Retry);
}

#[test]
fn a_stable_value_that_found_no_room_is_logged_later() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.r.store_mut().refuse(Some((|r| matches!(r, Record::Meta(MetaKey::Stable(_), _)), AppendError::Full)));
    rig.stable(1, Version::new(1, 1));
    rig.advance(1_000_000);
    rig.run();
    assert_eq!(rig.count("stables_logged"), 0);
    rig.r.store_mut().refuse(None);
    rig.advance(1_000_000);
    rig.run();
    assert_eq!(rig.count("stables_logged"), 1);
}

fn out_map(rev: u64, e0: u32) -> std::sync::Arc<ClusterMap> {
    let mut map = (*map(rev, u32::try_from(rev).unwrap(), &[2, 3], &[])).clone();
    map.pools[0].shards[0].pgs[0].out.push(drystone_types::map::OutSince {
        drive: DriveId(1),
        e0: Epoch(e0),
        since_s: 0,
    });
    std::sync::Arc::new(map)
}

#[test]
fn a_suspect_drive_that_is_out_already_asks_to_be_taken_for_blank() {
    let suspect = Config { suspect: true, ..config(1) };
    for (e0, asks) in [(4, true), (0, false)] {
        let mut rig = Rig::open(suspect.clone(), drystone_store::testing::NaiveStore::new(1000));
        rig.map(out_map(5, e0));
        assert_eq!(rig.has(|a| matches!(a, Action::LeavePg { why: LeaveWhy::Suspect, .. })), asks);
    }
}

/// Drive 1 lost an acked write and was dropped for another reason before it could leave.
fn found_out_late() -> World {
    let mut w = World::new();
    w.write(&[1, 2, 3], 1, 1, 5, 5);
    w.write(&[2, 3], 1, 2, 1024 + 6, 6);
    w.stable(&[2, 3], 1, Version::new(1, 2));
    let checked = Config { peer_check: true, open_nonce: 2, ..config(1) };
    let rig = w.drives.remove(&1).unwrap().restart_as(checked);
    w.drives.insert(1, rig);
    w.drive(1).map(map(1, 1, &[1, 2, 3], &[]));
    w.settle();
    assert_eq!(w.drive(1).count("peer_checks_failed"), 1);
    w.actions.clear();
    w
}

#[test]
fn p14_a_drive_that_failed_its_peer_check_says_so_again_when_the_map_still_trusts_its_content() {
    let mut w = found_out_late();
    w.drive(1).map(out_map(5, 4));
    assert!(w.drive(1).has(|a| matches!(a, Action::LeavePg { why: LeaveWhy::PeerCheck, .. })));
    w.drive(1).out.clear();
    w.drive(1).map(out_map(6, 0));
    assert!(!w.drive(1).has(|a| matches!(a, Action::LeavePg { .. })));
}

#[test]
fn p14_a_drive_that_failed_its_peer_check_copies_everything_whatever_the_map_remembers() {
    let mut w = found_out_late();
    // Also when it restarts in between.
    let rig = w.drives.remove(&1).unwrap().restart(3);
    w.drives.insert(1, rig);
    for d in [2, 3] {
        w.drive(d).map(map(5, 5, &[2, 3], &[]));
    }
    w.drive(1).map(out_map(5, 4));
    let joined = map(6, 6, &[2, 3], &[joiner(1, 6, 5)]);
    w.map(joined);
    w.drive(1).generations(6, &[(VOL, Gen(1), 1)]);
    w.settle();
    assert_eq!(w.completes, [(1, 6)]);
    w.assert_equal(1, 2, 0..2);
    w.map(map(7, 7, &[2, 3, 1], &[]));
    w.drive(1).run();
    let key = w.drive(1).r.store().metas().into_iter().find(|(k, _)| *k == MetaKey::Drive(0x4449_5354 << 32));
    assert_eq!(key, None, "from then on its content counts again");
}

/// The question of a joiner that copies everything.
fn digest_list() -> Vec<u8> {
    let mut ask = Writer::new();
    ask.u8(0).u32(0).u64(0).u64(0).u8(0);
    ask.finish()
}

fn checked_again(w: &mut World, nonce: u64) {
    let cfg = Config { peer_check: true, open_nonce: nonce, ..config(1) };
    let rig = w.drives.remove(&1).unwrap().restart_as(cfg);
    w.drives.insert(1, rig);
    w.wire.clear();
}

#[test]
fn p14_a_drive_that_failed_its_peer_check_stays_closed_at_every_open_whoever_answers_it() {
    for members in [&[1, 2, 3][..], &[1]] {
        let mut w = found_out_late();
        w.tap = Some(Box::new(|_, _, _| false));
        checked_again(&mut w, 3);
        w.drive(1).map(map(5, 5, members, &[]));
        w.settle();
        assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::Retry, "{members:?}");
        assert!(w.actions.iter().any(|a| matches!(a, (1, Action::LeavePg { why: LeaveWhy::PeerCheck, .. }))));
        // Nobody copies from it either.
        let list = Frame::with_meta(w.drive(1).hdr(MsgType::Digest, 0), digest_list());
        assert_eq!(w.drive(1).call_from(SERVER, list).hdr.status, Status::Retry, "{members:?}");
        // A newer epoch changes nothing.
        w.drive(1).map(map(6, 6, members, &[]));
        assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::Retry, "{members:?}");
    }
}

/// Drive 1 is all that is left; what it is told of the others counts for nothing.
fn all_that_is_left(rev: u64) -> std::sync::Arc<ClusterMap> {
    let mut lost = (*map(rev, u32::try_from(rev).unwrap(), &[1], &[])).clone();
    for d in [2, 3] {
        let out = drystone_types::map::OutSince { drive: DriveId(d), e0: Epoch(0), since_s: 0 };
        lost.pools[0].shards[0].pgs[0].out.push(out);
    }
    std::sync::Arc::new(lost)
}

/// Only a person brings a drive back in sync that was out, without a copy.
#[test]
fn p14_what_a_person_declared_to_be_all_that_is_left_of_a_group_serves_again() {
    for restarts in [false, true] {
        let mut w = found_out_late();
        w.drive(1).map(out_map(5, 0));
        if restarts {
            checked_again(&mut w, 3);
        }
        w.drive(1).map(all_that_is_left(6));
        w.settle();
        assert_eq!(w.drive(1).byte(1, 5), Some(5), "{restarts}");
        checked_again(&mut w, 4);
        w.drive(1).map(all_that_is_left(6));
        w.settle();
        assert_eq!(w.drive(1).byte(1, 5), Some(5), "{restarts}");
        assert!(!w.drive(1).has(|a| matches!(a, Action::LeavePg { .. })));
    }
}

/// That the others are worth nothing either is no decision of a person.
#[test]
fn p14_a_last_copy_that_failed_its_peer_check_stays_closed_whatever_becomes_of_the_others() {
    let mut w = found_out_late();
    for (nonce, rev) in [(3, 5), (4, 6)] {
        w.drive(1).map(all_that_is_left(rev));
        assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::Retry);
        checked_again(&mut w, nonce);
        w.drive(1).map(all_that_is_left(rev));
        w.settle();
        assert_eq!(w.drive(1).read(1, 5).hdr.status, Status::Retry);
    }
}

/// It was copied anew and is in sync; that it learns this only after a restart changes nothing.
#[test]
fn p14_a_drive_that_was_promoted_while_it_was_away_is_trusted_again() {
    let mut w = found_out_late();
    for d in [2, 3] {
        w.drive(d).map(map(5, 5, &[2, 3], &[]));
    }
    w.drive(1).map(out_map(5, 4));
    w.map(map(6, 6, &[2, 3], &[joiner(1, 6, 5)]));
    w.drive(1).generations(6, &[(VOL, Gen(1), 1)]);
    w.settle();
    assert_eq!(w.completes, [(1, 6)]);
    w.actions.clear();
    checked_again(&mut w, 3);
    w.map(map(7, 7, &[2, 3, 1], &[]));
    w.settle();
    assert_eq!(w.drive(1).byte(1, 1024 + 6), Some(6));
    assert!(!w.actions.iter().any(|(_, a)| matches!(a, Action::LeavePg { .. })));
}
