//! What a move leaves behind: when it goes, and that it counts for nothing from then on.

use std::sync::Arc;

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Action, Config, Control, Facts, LeaveWhy, Report, StoredRole};
use drystone_store::api::{BlockKind, BlockRecord, MetaKey, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::map::OutSince;
use drystone_types::*;

const SECOND: u64 = 1_000_000;
/// Longer than what a move left stays.
const LONG: u64 = 15;

type Change = fn(&mut PgRecord);

/// In sync and wanted are drives 1, 2 and 4; drive 3 is forgotten.
fn moved(rev: u64, epoch: u32, change: Change) -> Arc<ClusterMap> {
    let mut map = (*map(rev, epoch, &[1, 2, 4], &[])).clone();
    let rec = map.pool_mut(PoolId(1)).and_then(|p| p.pg_mut(0)).unwrap();
    rec.target = rec.insync.clone();
    change(rec);
    Arc::new(map)
}

fn nothing(_: &mut PgRecord) {}

fn remembered(rec: &mut PgRecord) {
    rec.out.push(OutSince { drive: DriveId(3), e0: Epoch(1), since_s: 0 });
}

/// Drive 3 with a few stable blocks in three chunks.
fn holding() -> Rig {
    let mut rig = Rig::active(3);
    fill(&mut rig);
    rig
}

fn fill(rig: &mut Rig) {
    for seq in 1..=6 {
        assert_eq!(rig.write(1, seq, (seq % 3) * 1024 + seq, 7), Status::Ok);
    }
    assert_eq!(rig.stable(1, Version::new(1, 6)).hdr.status, Status::Ok);
}

/// An object more.
fn put(rig: &mut Rig, chunk: u64) {
    let zeros = BlockRecord {
        vol: VOL,
        key: ObjKey { layer: LAYER, chunk },
        pg: PG,
        pg_epoch: Epoch(1),
        first: 0,
        count: 9,
        kind: BlockKind::Zero,
        version: Version::new(1, 1),
        since_join: None,
        copy: false,
        csums: Vec::new(),
    };
    append(rig, Record::Blocks(zeros));
}

fn append(rig: &mut Rig, record: Record) {
    let store = rig.r.store_mut();
    store.append(Stream::Small, SpaceClass::Reserve, record, Buf::empty(), 1 << 50).unwrap();
    rig.flush();
    rig.run();
}

fn objects(rig: &Rig) -> usize {
    rig.r.store().objects_of(PG, None, 100).len()
}

/// Seconds pass, and the device does what it is given.
fn pass(rig: &mut Rig, seconds: u64) {
    for _ in 0..seconds * 10 {
        rig.advance(SECOND / 10);
        rig.run();
    }
}

fn facts(rig: &Rig) -> StoredRole {
    let metas = rig.r.store().metas();
    Facts::read(metas.iter().map(|(k, v)| (*k, v.as_slice()))).pgs.get(&PG).map_or(StoredRole::Unknown, |pg| pg.role)
}

fn wants_to_leave(rig: &Rig) -> bool {
    rig.has(|a| matches!(a, Action::LeavePg { why: LeaveWhy::Freed, .. }))
}

#[test]
fn what_a_move_left_goes_after_a_while_and_is_marked() {
    let mut rig = holding();
    rig.map(moved(2, 2, nothing));
    pass(&mut rig, 8);
    assert_eq!((objects(&rig), rig.count("objects_freed")), (3, 0), "others may be dying");
    pass(&mut rig, LONG);
    assert_eq!((objects(&rig), rig.r.store().space().live), (0, 0));
    assert_eq!((rig.count("groups_freed"), rig.count("objects_freed")), (1, 3));
    assert_eq!(facts(&rig), StoredRole::Freed);
    assert!(rig.has(|a| matches!(a, Action::Report(Report::Freed { pg: PG }))));
    let usage: i64 = rig.r.store_mut().take_usage().iter().map(|(_, _, n)| n).sum();
    assert!(usage <= 0);
}

#[test]
fn no_block_goes_before_the_mark_is_durable() {
    let mut rig = holding();
    rig.map(moved(2, 2, nothing));
    for _ in 0..130 {
        rig.advance(SECOND / 10);
    }
    // The mark is admitted; the device has not written it.
    assert_eq!((facts(&rig), rig.count("objects_freed")), (StoredRole::Freed, 0));
    let mut rig = rig.restart(2);
    assert_eq!((facts(&rig), objects(&rig)), (StoredRole::Out, 3), "a stop before it changes nothing");
    rig.map(moved(2, 2, nothing));
    pass(&mut rig, LONG);
    assert_eq!(objects(&rig), 0, "and it begins again");
}

/// Maps that prove nothing.
fn kept(change: Change) {
    let mut rig = holding();
    rig.map(moved(2, 2, change));
    pass(&mut rig, LONG);
    assert_eq!((objects(&rig), rig.count("objects_freed")), (3, 0));
    assert_ne!(facts(&rig), StoredRole::Freed);
}

#[test]
fn a_drive_that_is_remembered_or_wanted_frees_nothing() {
    kept(remembered);
    kept(|rec| rec.out.push(OutSince { drive: DriveId(3), e0: Epoch(0), since_s: 0 }));
    kept(|rec| rec.target.push(DriveId(3)));
}

#[test]
fn nothing_is_freed_while_a_place_is_empty_or_its_copy_not_in_sync() {
    kept(|rec| rec.target.truncate(2));
    kept(|rec| rec.target.clear());
    kept(|rec| rec.insync.retain(|d| d.0 != 4));
    kept(|rec| {
        rec.insync.retain(|d| d.0 != 4);
        rec.joining.push(joiner(4, 2, 0));
    });
}

#[test]
fn nothing_is_freed_while_a_copy_is_on_a_drive_that_is_down() {
    let mut rig = holding();
    let mut map = (*moved(2, 2, nothing)).clone();
    map.drives[3].state = 1;
    rig.map(Arc::new(map));
    pass(&mut rig, LONG);
    assert_eq!(objects(&rig), 3);
}

#[test]
fn a_pg_that_no_map_shows_is_never_freed() {
    let mut rig = holding();
    let mut map = (*moved(2, 2, nothing)).clone();
    map.pools.clear();
    rig.map(Arc::new(map));
    pass(&mut rig, LONG);
    assert_eq!(objects(&rig), 3);
}

#[test]
fn a_map_older_than_what_the_drive_was_a_member_of_frees_nothing() {
    let mut rig = holding();
    rig.map(map(2, 5, &[1, 2, 3], &[]));
    // An epoch is noted at most a second late.
    pass(&mut rig, 2);
    rig.map(moved(3, 5, nothing));
    pass(&mut rig, LONG);
    assert_eq!(objects(&rig), 3, "the epoch in which it was a member");
    let mut rig = rig.restart(2);
    rig.map(moved(4, 4, nothing));
    pass(&mut rig, LONG);
    assert_eq!(objects(&rig), 3, "after a restart it knows that too");
}

#[test]
fn an_object_newer_than_the_map_stops_it_and_the_operator_hears_of_it() {
    let mut rig = holding();
    rig.map(moved(2, 2, nothing));
    let key = ObjKey { layer: LAYER, chunk: 1 };
    append(&mut rig, Record::Touch(key, Epoch(9)));
    pass(&mut rig, LONG);
    assert_eq!((objects(&rig), rig.count("free_refused")), (3, 1));
    assert!(rig.has(|a| matches!(a, Action::Report(Report::MapRefused(_)))));
}

#[test]
fn without_a_lease_nothing_is_freed_because_the_map_may_be_old() {
    let mut rig = holding();
    rig.map(moved(2, 2, nothing));
    rig.event(drystone_replica::Event::Lease { valid_until: 0 });
    pass(&mut rig, LONG);
    assert_eq!(objects(&rig), 3);
    rig.event(drystone_replica::Event::Lease { valid_until: u64::MAX });
    pass(&mut rig, 8);
    assert_eq!(objects(&rig), 3, "the time begins with the lease");
    pass(&mut rig, LONG);
    assert_eq!(objects(&rig), 0);
}

#[test]
fn a_copy_that_is_lost_meanwhile_stops_what_has_begun() {
    let mut rig = Rig::active(3);
    (0..300).for_each(|chunk| put(&mut rig, chunk));
    rig.map(moved(2, 2, nothing));
    while rig.count("objects_freed") == 0 {
        rig.advance(SECOND / 100);
        if let Some(id) = rig.dev.first().copied() {
            rig.complete(id);
        }
    }
    rig.map(moved(3, 3, |rec| rec.insync.retain(|d| d.0 != 4)));
    let left = objects(&rig);
    pass(&mut rig, LONG);
    assert!(left > 0 && objects(&rig) == left, "{left}");
    assert_eq!(facts(&rig), StoredRole::Freed, "what is left is no copy any more");
    let mut rig = rig.restart(2);
    rig.map(moved(4, 4, nothing));
    pass(&mut rig, LONG);
    assert_eq!((objects(&rig), rig.count("groups_freed")), (0, 1), "it goes on after a restart");
}

/// Drives 1 to 3 with equal content; drive 3 lost its place and freed what it had.
fn freed_world() -> World {
    let mut w = World::new();
    for d in 1..=3 {
        fill(w.drive(d));
    }
    let three = |rev, epoch| {
        let mut map = (*moved(rev, epoch, nothing)).clone();
        let rec = map.pool_mut(PoolId(1)).and_then(|p| p.pg_mut(0)).unwrap();
        rec.insync.retain(|d| d.0 != 4);
        rec.insync.push(DriveId(4));
        Arc::new(map)
    };
    w.map(three(2, 2));
    pass(w.drive(3), LONG + 10);
    assert_eq!(objects(w.drive(3)), 0);
    w.collect();
    w
}

#[test]
fn a_freed_copy_joins_as_a_blank_one_whatever_the_map_remembers() {
    let mut w = freed_world();
    w.restart(3, 2);
    w.rejoin(2, 2);
    assert_eq!(facts(w.drive(3)), StoredRole::Freed, "no whole copy yet");
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..3);
    assert_eq!(facts(w.drive(3)), StoredRole::Joining, "from here on it is one");
    w.map(map(4, 4, &[1, 2, 3], &[]));
    pass(w.drive(3), 2);
    assert_eq!(facts(w.drive(3)), StoredRole::InSync);
    w.drive(3).seal(2);
    assert_eq!(w.drive(3).byte(2, 1024 + 1), Some(7));
    assert!(!wants_to_leave(w.drive(3)));
}

#[test]
fn a_joiner_that_stops_halfway_is_still_a_freed_one() {
    let mut w = freed_world();
    w.rejoin(2, 2);
    w.restart(3, 2);
    assert_eq!(facts(w.drive(3)), StoredRole::Freed);
    w.drive(3).map(map(3, 3, &[1, 2], &[joiner(3, 3, 2)]));
    w.drive(3).generations(3, &[]);
    w.settle();
    w.assert_equal(1, 3, 0..3);
}

#[test]
fn a_copy_that_was_complete_is_whole_after_a_restart_that_finds_it_promoted() {
    let mut w = freed_world();
    w.rejoin(2, 0);
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.restart(3, 2);
    w.drive(3).map(map(4, 4, &[1, 2, 3], &[]));
    assert!(!wants_to_leave(w.drive(3)));
    w.drive(3).seal(2);
    assert_eq!(w.drive(3).byte(2, 1024 + 1), Some(7));
}

#[test]
fn an_old_map_that_has_a_freed_copy_in_sync_is_not_served() {
    for restart in [false, true] {
        let mut w = freed_world();
        if restart {
            w.restart(3, 2);
        }
        w.drive(3).map(map(3, 3, &[1, 2, 3], &[]));
        assert!(wants_to_leave(w.drive(3)));
        w.drive(3).seal(2);
        let answer = w.drive(3).read(2, 1024 + 1);
        assert_eq!(answer.hdr.status, Status::Retry);
        assert_eq!(w.drive(3).write(2, 1, 5, 5), Status::Retry);
        assert_eq!(w.drive(3).control(Control::Shutdown), drystone_replica::ControlResult::Done);
        assert_eq!(facts(w.drive(3)), StoredRole::Freed, "what it notes of itself stays true");
    }
}

#[test]
fn what_a_person_declared_lost_goes_on_with_what_is_left() {
    let mut w = freed_world();
    let mut given_up = (*map(3, 4, &[3], &[])).clone();
    let rec = given_up.pool_mut(PoolId(1)).and_then(|p| p.pg_mut(0)).unwrap();
    rec.out.push(OutSince { drive: DriveId(1), e0: Epoch(0), since_s: 0 });
    w.drive(3).map(Arc::new(given_up));
    assert!(!wants_to_leave(w.drive(3)));
    w.drive(3).seal(2);
    assert_eq!(w.drive(3).byte(2, 1024 + 1), None);
}

#[test]
fn a_role_that_an_older_version_left_behind_counts_for_nothing() {
    let mut w = freed_world();
    // It joined and was promoted under a version that notes no roles.
    let mut value = Writer::new();
    value.u32(7).u32(0).u32(0);
    append(w.drive(3), Record::Meta(MetaKey::Adopt(PG), value.finish()));
    w.restart(3, 2);
    w.drive(3).map(map(8, 8, &[1, 2, 3], &[]));
    assert!(!wants_to_leave(w.drive(3)));
}

#[test]
fn a_drive_that_is_not_to_be_believed_frees_nothing() {
    let mut rig = holding().restart_as(Config { suspect: true, ..config(3) });
    rig.map(moved(2, 2, nothing));
    pass(&mut rig, LONG);
    assert_eq!(objects(&rig), 3);
}
