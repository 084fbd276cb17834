//! Credits, full drives and many versions.

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
        Scenario::new("L1 a write waits for the credit of a new joiner", Some(Rule::W2), joiner_credit),
        Scenario::new("L2 ENOSPC only when an in-sync member is full, and trimming cures it", None, full)
            .in_world(small_drives),
        Scenario::new("L2 three volumes share the last slots", None, three_volumes).in_world(three_small),
        Scenario::new("a drive becomes full during resync", None, full_joiner).in_world(eight_chunks),
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
    s.w.meta.drives.insert(id, DriveRecord { nonce: 0, serial, node: node_uuid(2) });
    let drive = &mut s.w.drives[2];
    (drive.id, drive.serial, drive.dev) = (id, serial, storage::blank_device(100));
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
    s.until("every volume", |w| (0..3).all(|c| w.clients[c].was_active));
    for run in 0..45 {
        let ops: Vec<_> = (0..3).map(|c| s.issue(c, What::Write(0), run * 200, 200)).collect();
        for op in ops {
            s.wait(op);
        }
        if s.count("io.no_space") > 6 {
            return;
        }
    }
    s.demand("the drives never became full", false);
}
