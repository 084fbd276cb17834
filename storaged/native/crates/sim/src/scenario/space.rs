//! Credits, full drives and many versions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use drystone_store::api::ObjectStore;
use drystone_types::{DriveId, MsgType, Rule};

use super::{Scenario, Script};
use crate::event::End;
use crate::history::What;
use crate::meta::DriveRecord;
use crate::net::node_uuid;
use crate::plan::Plan;
use crate::storage;
use crate::world::HookVerdict;

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("P5 L1 nothing starts at zero", None, never_zero),
        Scenario::new("L1 a write waits for the credit of a new joiner", None, joiner_credit),
        Scenario::new("L2 ENOSPC only when an in-sync member is full, and trimming cures it", None, full)
            .in_world(small_drives),
        Scenario::new("L2 three volumes share the last slots", None, three_volumes).in_world(three_small),
        Scenario::new("L2 eight volumes hold less than a write each", None, eight_volumes).in_world(eight_small),
        Scenario::new("L2 an idle volume's credits go to the others, once", None, idle_credits).in_world(three_idle),
        Scenario::new("I20 a full drive takes many overwrites at once", None, overwrites).in_world(small_drives),
        Scenario::new("L2 the client that holds the last credits is dead", None, dead_holder).in_world(three_idle),
        Scenario::new("a drive becomes full during resync", Some(Rule::CopySpace), full_joiner).in_world(eight_chunks),
        Scenario::new("L3 promises outlive a restart", None, promises_outlive).in_world(small_drives),
    ]
}

/// Drives smaller than the volume.
fn small_drives() -> Plan {
    Plan { drive_slots: 600, chunks: 10, depth: 8, ..Plan::quiet() }
}

fn eight_chunks() -> Plan {
    Plan { chunks: 8, ..Plan::quiet() }
}

fn three_small() -> Plan {
    Plan { volumes: 3, ..small_drives() }
}

fn eight_small() -> Plan {
    Plan { volumes: 8, ..small_drives() }
}

/// Large enough that a volume at rest was granted more than it needs.
fn three_idle() -> Plan {
    Plan { volumes: 3, drive_slots: 12_000, chunks: 20, ..Plan::quiet() }
}

fn no_stable(f: &crate::world::FrameFacts) -> HookVerdict {
    if f.hdr.kind == MsgType::Stable {
        HookVerdict::Lose
    } else {
        HookVerdict::Pass
    }
}

/// The first writes of a generation need no poll: their credit comes with the seal.
fn never_zero(s: &mut Script) {
    s.write_wait(0, 1);
    s.rule(no_stable);
    let c = s.attach();
    s.until_active(c);
    let begin = s.w.now;
    let op = s.issue(c, What::Write(0), 0, 200);
    s.wait(op);
    let gap = s.w.now - begin;
    s.demand("the first write waited for a poll", gap < 50_000);
    s.unhook();
    s.read_each(c, 1);
}

/// A member whose answers were lost so far has granted nothing yet: the write waits, and then goes on.
fn joiner_credit(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.rule(|f| {
        let to_joiner = f.from == End::Client(0) && f.drive == 2;
        if to_joiner && f.hdr.kind == MsgType::Stable {
            HookVerdict::Lose
        } else {
            HookVerdict::Pass
        }
    });
    s.join(2);
    s.push();
    let op = s.issue(0, What::Write(0), 0, 200);
    s.run(100_000);
    s.unhook();
    s.wait(op);
    s.promote(2);
    s.push();
    s.read_each(0, 1);
}

/// Writes runs of 200 blocks until one is refused for space; returns how many went in.
fn fill(s: &mut Script) -> u64 {
    let before = s.count("io.no_space");
    for run in 0..45 {
        let op = s.issue(0, What::Write(0), run * 200, 200);
        s.wait(op);
        if s.count("io.no_space") > before {
            return run;
        }
    }
    s.demand("the drives never became full", false);
    0
}

fn full(s: &mut Script) {
    let runs = fill(s);
    // What is mapped can be overwritten on a full drive; what is not cannot.
    let errors = s.count("io.no_space");
    let op = s.issue(0, What::Write(0), 0, 8);
    s.wait(op);
    let refused = s.count("io.no_space") > errors;
    s.demand("an overwrite met a full drive", !refused);
    let op = s.issue(0, What::Trim, 0, runs * 200);
    s.wait(op);
    s.run(10_000_000);
    let errors = s.count("io.no_space");
    let op = s.issue(0, What::Write(0), 0, 200);
    s.wait(op);
    let refused = s.count("io.no_space") > errors;
    s.demand("trimming did not cure a full drive", !refused);
}

/// Drives restart while credits are out: what was promised stays reserved until it is restated.
fn promises_outlive(s: &mut Script) {
    for run in 0..8 {
        let op = s.issue(0, What::Write(0), run * 200, 200);
        s.wait(op);
    }
    for round in 0..3 {
        for run in 0..4 {
            s.issue(0, What::Write(0), (8 + round * 4 + run) * 200, 200);
        }
        s.run(400);
        for n in 0..3 {
            s.w.stop_server(n, true);
        }
        for n in 0..3 {
            s.w.start_server(n);
        }
        s.until("the writes", |w| w.history.open_of(0) == 0);
    }
    fill(s);
}

/// A joiner too small for what it should hold leaves; nobody else is held up; with room it joins again.
fn full_joiner(s: &mut Script) {
    s.w.managed = true;
    for run in 0..32 {
        let op = s.issue(0, What::Write(0), run * 200, 200);
        s.wait(op);
    }
    s.drop_dead(2, true);
    s.push();
    let id = DriveId(9);
    let serial = s.w.fresh();
    s.w.meta.drives.insert(id, DriveRecord { serial, node: node_uuid(2), ..DriveRecord::default() });
    let drive = &mut s.w.drives[2];
    (drive.id, drive.serial, drive.dev) = (id, serial, storage::blank_device(1_750));
    s.w.start_server(2);
    s.until("the joiner leaves", |w| w.counts.get("leave.no_space") > 0);
    s.write_wait(0, 1);
    let op = s.issue(0, What::Trim, 0, 4_000);
    s.wait(op);
    s.until("it joins again and is filled", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    s.read_each(0, 1);
    s.read_each(0, 6_000);
}

/// Three volumes write in turn until each was refused for space: none may wait for the others.
fn three_volumes(s: &mut Script) {
    share(s, 3);
}

/// What each has left is too little for a write, together it were enough: nobody waits for that.
fn eight_volumes(s: &mut Script) {
    share(s, 8);
}

fn share(s: &mut Script, volumes: usize) {
    s.until("every volume", |w| (0..volumes).all(|c| w.clients[c].was_active));
    for run in 0..45 {
        let ops: Vec<_> = (0..volumes).map(|c| s.issue(c, What::Write(0), run * 200, 200)).collect();
        for op in ops {
            s.wait(op);
        }
        if s.count("io.no_space") > 2 * volumes as u64 {
            return;
        }
    }
    s.demand("the drives never became full", false);
}

/// Slots promised and not used on a drive.
fn promised(s: &Script, d: usize) -> u64 {
    s.w.drives[d].replica.as_ref().map_or(0, |r| r.store().space().granted)
}

/// Volumes at rest keep what one write needs; then they say nothing more.
fn idle_credits(s: &mut Script) {
    s.until("every volume", |w| (0..3).all(|c| w.clients[c].was_active));
    s.write_wait(0, 1);
    let before = promised(s, 0);
    s.demand("more was granted than needed at rest", before > 3 * 300);
    s.run(3_000_000);
    for d in 0..3 {
        let now = promised(s, d);
        s.demand("idle volumes kept credits", now <= 3 * 257);
    }
    let said = Arc::new(AtomicU64::new(0));
    let more = said.clone();
    s.hook(move |f| {
        more.fetch_add(u64::from(f.hdr.kind == MsgType::Stable), Ordering::Relaxed);
        false
    });
    s.run(20_000_000);
    s.unhook();
    s.demand("idle volumes went on talking", said.load(Ordering::Relaxed) == 0);
    let op = s.issue(0, What::Write(0), 0, 1000);
    s.wait(op);
}

/// More overwrites at once than the reserve holds: none is refused, no copy is dropped for it.
fn overwrites(s: &mut Script) {
    let runs = fill(s).min(24);
    let errors = s.count("io.no_space");
    for round in 0..3 {
        let ops: Vec<_> = (0..runs).map(|run| s.issue(0, What::Write(0), run * 200, 190 + round)).collect();
        for op in ops {
            s.wait(op);
        }
    }
    let refused = s.count("io.no_space") > errors;
    s.demand("an overwrite was refused", !refused);
    let whole = s.w.meta.pg(0).is_some_and(|r| r.insync.len() == 3);
    s.demand("a copy was dropped for it", whole);
    s.read_each(0, 1);
}

/// Its credits never come back; who waits for them is told in the end.
fn dead_holder(s: &mut Script) {
    s.until("every volume", |w| (0..3).all(|c| w.clients[c].was_active));
    for c in 1..3 {
        s.w.kill_client(c);
    }
    let full = (0..100).any(|run| {
        let before = s.count("io.no_space");
        let op = s.issue(0, What::Write(0), run * 200, 200);
        s.wait(op);
        s.count("io.no_space") > before
    });
    s.demand("the drives never became full", full);
    let held = promised(s, 0);
    s.demand("the dead held nothing", held > 2 * 300);
}
