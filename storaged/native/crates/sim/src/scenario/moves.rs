//! What a move leaves behind, and when it is freed (ADR 20).

use drystone_store::api::ObjectStore;
use drystone_types::map::OutSince;
use drystone_types::{Epoch, PgId, Rev, Rule};

use super::{Scenario, Script};
use crate::meta::{Change, POOL};
use crate::plan::Plan;
use crate::world::{Time, World};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("what a move left is freed, and counts for nothing", Some(Rule::FreeMark), freed_is_blank)
            .noticing(&[Rule::FreedBlank])
            .in_world(four),
        Scenario::new("a drive that is remembered frees nothing", Some(Rule::FreeUnwanted), remembered).in_world(four),
        Scenario::new("nothing is freed while a place has no copy", Some(Rule::FreeWhole), not_whole).in_world(four),
        Scenario::new("an old store that nobody notices frees nothing", Some(Rule::FreeEpoch), unnoticed)
            .in_world(four),
        Scenario::new("a move is undone while its copy is freed", None, undone).in_world(four),
    ]
}

const SECOND: Time = 1_000_000;
/// Blocks written in each scenario.
const BLOCKS: u64 = 4;

/// One drive more than the PG has copies.
fn four() -> Plan {
    Plan { nodes: 4, ..Plan::quiet() }
}

/// Whether a drive has nothing of the PG.
fn is_empty(w: &World, d: usize) -> bool {
    let pg = PgId { pool: POOL, pg: 0 };
    w.drives[d].replica.as_ref().is_some_and(|r| r.store().objects_of(pg, None, 1).is_empty())
}

/// Writes blocks that are stable; gives a drive that has a place, and the one that has none.
fn written(s: &mut Script) -> (usize, usize) {
    for block in 0..BLOCKS {
        s.write_wait(0, block);
    }
    s.run(3 * SECOND);
    let target = s.w.meta.pg(0).map(|r| r.target.clone()).unwrap_or_default();
    let spare = (0..4).find(|d| !target.contains(&s.id(*d))).unwrap_or(3);
    let last = (0..4).rfind(|d| target.contains(&s.id(*d))).unwrap_or(2);
    (last, spare)
}

/// The new drive has the place and a whole copy; the old one promised to answer no reads.
fn copied_over(s: &mut Script, old: usize, new: usize) {
    let (from, to) = (s.id(old), s.id(new));
    s.change(Change::Retarget(from, to));
    s.join(new);
    s.push();
    s.promote(new);
    s.push();
    s.w.quiesce_drive(old);
    s.until("the QUIESCE", |w| w.drives[old].quiescing == 0);
}

/// A whole move: the old drive is dropped and forgotten in one change.
fn move_over(s: &mut Script, old: usize, new: usize) {
    copied_over(s, old, new);
    let epoch = s.w.meta.pg(0).map_or(Epoch(0), |r| r.epoch);
    let from = s.id(old);
    s.change(Change::Retire(from, epoch));
    s.push();
}

fn read_all(s: &mut Script) {
    for block in 0..BLOCKS {
        s.read_each(0, block);
    }
}

/// The drive is empty; then an old record comes back that gives it credit, and it joins by that.
fn freed_is_blank(s: &mut Script) {
    let (old, new) = written(s);
    move_over(s, old, new);
    s.until("what the move left is freed", move |w| is_empty(w, old));
    let live = s.w.drives[old].replica.as_ref().map(|r| r.store().space().live);
    s.must("FREED", "the drive's space is not told free", live == Some(0));
    let node = s.w.drives[old].node;
    s.w.stop_server(node, true);
    s.restart(old);
    let id = s.id(old);
    // In an epoch later than that of the freeing it was still in sync, says the map: what the copy itself shows of
    // its last change is older than what a delta asks for.
    for _ in 0..2 {
        let Some(mut record) = s.w.meta.pg(0).cloned() else { return };
        record.out.retain(|out| out.drive != id);
        record.out.push(OutSince { drive: id, e0: record.epoch, since_s: 0 });
        s.w.meta.go_back(0, &record);
    }
    s.join(old);
    s.push();
    s.promote(old);
    s.push();
    s.run(SECOND / 2);
    read_all(s);
}

/// Its place went to another one, and it is remembered still: it may be wanted back with a delta.
fn remembered(s: &mut Script) {
    let (old, new) = written(s);
    copied_over(s, old, new);
    let id = s.id(old);
    s.change(Change::Drop(id));
    s.push();
    s.run(20 * SECOND);
    let kept = !is_empty(&s.w, old);
    s.must("FREED", "a drive freed what it is remembered with", kept);
    s.change(Change::Forget(id));
    s.push();
    s.until("what is not wanted back is freed", move |w| is_empty(w, old));
    read_all(s);
}

/// The new copy's drive dies right after the move.
fn not_whole(s: &mut Script) {
    let (old, new) = written(s);
    move_over(s, old, new);
    s.run(3 * SECOND);
    s.drop_dead(new, true);
    s.push();
    s.run(20 * SECOND);
    let kept = !is_empty(&s.w, old);
    s.must("FREED", "a drive freed its copy while a place had none", kept);
    s.restart(new);
    s.join(new);
    s.push();
    s.promote(new);
    s.push();
    s.until("what the move left is freed", move |w| is_empty(w, old));
    read_all(s);
}

/// A copy of the store from before the move comes back with a lifted revision. To the drive that was moved to it looks
/// as if the PG had moved away from it.
fn unnoticed(s: &mut Script) {
    let (old, new) = written(s);
    let backup = s.w.meta.clone();
    copied_over(s, old, new);
    let id = s.id(old);
    s.change(Change::Drop(id));
    s.push();
    let newest = s.w.put_back(backup);
    let rev = newest.rev;
    s.w.newest = Some(newest);
    s.w.meta.lift(Rev(rev.0 + 100));
    s.push_to_drive(new);
    s.run(20 * SECOND);
    let kept = !is_empty(&s.w, new);
    s.must("FREED", "a drive freed its copy by an old map", kept);
    s.w.newest_store();
    s.w.meta.lift(Rev(rev.0 + 200));
    s.push();
    s.run(SECOND);
    read_all(s);
}

/// The drive gets its place back right after the mark, or a little later: it fills itself as a blank one.
fn undone(s: &mut Script) {
    let (old, new) = written(s);
    move_over(s, old, new);
    s.until("the first block goes", move |w| w.counts.get("freed.steps") > 0);
    copied_over(s, new, old);
    let id = s.id(new);
    let epoch = s.w.meta.pg(0).map_or(Epoch(0), |r| r.epoch);
    s.change(Change::Retire(id, epoch));
    s.push();
    s.run(SECOND);
    read_all(s);
    s.until("what the second move left is freed", move |w| is_empty(w, new));
}
