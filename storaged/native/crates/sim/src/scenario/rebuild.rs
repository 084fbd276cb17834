//! Copies that come back: how much is moved, from whom, and what was forgotten meanwhile.

use drystone_replica::{Control, Event};
use drystone_types::{DriveId, LayerId, MsgType};

use super::{Scenario, Script};
use crate::drive::FREE_ID;
use crate::event::End;
use crate::history::What;
use crate::meta::{Change, DriveRecord};
use crate::net::node_uuid;
use crate::plan::Plan;
use crate::storage;
use crate::world::{HookVerdict, World};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a returning drive is sent what changed and hardly more", None, delta).in_world(wide),
        Scenario::new("a blank drive is filled by every other drive", None, many_sources).in_world(five_nodes),
        Scenario::new("a source dies in the middle of a copy", None, source_dies).in_world(wide),
        Scenario::new("a deleted layer does not return with a drive that was out", None, deleted_while_out)
            .in_world(two_volumes),
        Scenario::new("a device that hangs is dropped while its server lives", None, hung_device),
    ]
}

const BLOCK: u64 = 4096;

/// One PG with chunks enough for a part of them to change.
fn wide() -> Plan {
    Plan { chunks: 16, depth: 8, ..Plan::quiet() }
}

/// Eight PGs over five drives of five nodes.
fn five_nodes() -> Plan {
    Plan { nodes: 5, pgs: 8, chunks: 32, depth: 8, ..Plan::quiet() }
}

fn two_volumes() -> Plan {
    Plan { volumes: 2, chunks: 4, ..Plan::quiet() }
}

/// Writes blocks and waits for all of them.
fn fill(s: &mut Script, blocks: impl Iterator<Item = u64>) {
    let ops: Vec<_> = blocks.map(|block| s.write(0, block)).collect();
    ops.into_iter().for_each(|op| s.wait(op));
}

/// Bytes that a drive was sent as copies since its process began.
fn copied_bytes(w: &World, d: usize) -> u64 {
    w.drives[d].replica.as_ref().map_or(0, |r| r.stats().resync_bytes)
}

/// A tenth of the blocks changes while a drive is away.
fn delta(s: &mut Script) {
    const PER_CHUNK: u64 = 40;
    fill(s, (0..16 * PER_CHUNK).map(|i| i / PER_CHUNK * 1024 + i % PER_CHUNK));
    s.run(1_000_000);
    s.drop_dead(2, false);
    s.push();
    let changed: Vec<u64> = (0..16).step_by(5).flat_map(|c| (0..PER_CHUNK / 2).map(move |b| c * 1024 + b)).collect();
    fill(s, changed.iter().copied());
    s.restart(2);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    let (moved, needed) = (copied_bytes(&s.w, 2), changed.len() as u64 * BLOCK);
    s.demand("nothing was copied", moved >= needed);
    s.demand(&format!("{moved} bytes were moved for {needed} that changed"), moved * 10 <= needed * 11);
    s.read_each(0, 0);
    s.read_each(0, 1024);
}

/// A new blank drive in the bay of a lost one.
fn blank(s: &mut Script, d: usize) -> DriveId {
    let (node, old) = (s.w.drives[d].node, s.id(d));
    s.w.stop_server(node, true);
    if let Err(why) = s.w.meta.remove_drive(old) {
        s.w.fail("STORE", why);
    }
    let id = DriveId(100 + d as u32);
    let (serial, slots) = (s.w.fresh(), s.w.plan.drive_slots);
    let drive = &mut s.w.drives[d];
    (drive.id, drive.serial, drive.image) = (id, serial, None);
    drive.dev = storage::blank_device(slots);
    s.w.meta.drives.insert(id, DriveRecord { serial, node: node_uuid(node), ..DriveRecord::default() });
    s.w.start_server(node);
    id
}

fn everywhere(w: &World) -> bool {
    w.whole() && w.drives.iter().all(|d| d.replica.is_some())
}

/// Each PG has another first copy, so the work is everybody's.
fn many_sources(s: &mut Script) {
    s.w.managed = true;
    fill(s, (0..32 * 16).map(|i| i / 16 * 1024 + i % 16));
    let before = served(s);
    let id = blank(s, 2);
    s.until("the blank drive is in sync wherever it joined", |w| everywhere(w) && holds(w, id) > 0);
    let sources = served(s).iter().zip(&before).filter(|(now, then)| now > then).count();
    s.demand(&format!("only {sources} drives served the blank one"), sources >= 3);
    s.read_each(0, 0);
}

fn holds(w: &World, id: DriveId) -> usize {
    w.meta.shard().1.iter().filter(|r| r.is_insync(id)).count()
}

/// Copies that each other drive served so far.
fn served(s: &Script) -> Vec<u64> {
    let others = s.w.drives.iter().enumerate().filter(|(d, _)| *d != 2);
    others.map(|(_, d)| d.replica.as_ref().map_or(0, |r| r.stats().copies_served)).collect()
}

/// The source of a copy loses its power when a part of it has arrived.
fn source_dies(s: &mut Script) {
    fill(s, (0..16 * 8).map(|i| i / 8 * 1024 + i % 8));
    s.drop_dead(2, true);
    s.push();
    fill(s, (0..16).map(|c| c * 1024));
    s.restart(2);
    // Later copies wait, so that the source dies with the work half done.
    let mut passed = 0;
    s.rule(move |f| {
        let copy = f.hdr.kind == MsgType::Copy && f.to_server && f.from == End::Drive(2);
        passed += u32::from(copy);
        if copy && passed > 4 {
            HookVerdict::Hold
        } else {
            HookVerdict::Pass
        }
    });
    s.join(2);
    s.push();
    s.until("the copy is half done", |w| !w.held.is_empty());
    let source = s.w.held.first().map_or(0, |(conn, _, _)| s.w.conns[*conn].drive);
    s.until("a part of it arrives", |w| copied_bytes(w, 2) > 0);
    let id = s.id(source);
    s.w.stop_server(s.w.drives[source].node, true);
    s.discard_held();
    s.unhook();
    s.change(Change::Drop(id));
    s.push();
    s.promote(2);
    s.push();
    s.write_wait(0, 0);
    s.read_each(0, 1024);
    s.restart(source);
    s.join(source);
    s.push();
    s.promote(source);
    s.push();
}

/// The only layer of the second volume.
const DELETED: LayerId = LayerId(20);

fn holds_deleted(w: &World, d: usize) -> bool {
    w.drives[d].dev.shadow.model.objects.keys().any(|key| key.layer == DELETED)
}

/// The order to free a layer, and its durable confirmation.
fn order(s: &mut Script, d: usize) {
    let (done, life) = (s.count("order.done"), s.w.drives[d].life);
    let event = Event::Control { id: FREE_ID, req: Control::FreeLayer { layer: DELETED } };
    s.w.replica_event(d, life, event);
    s.until("the confirmation of an order", |w| w.counts.get("order.done") > done);
}

/// The drive that was away returns with the layer: it confirms after its promotion, and nothing brings it back.
fn deleted_while_out(s: &mut Script) {
    s.until("both volumes", |w| w.clients.iter().all(|c| c.was_active));
    for block in 0..8 {
        s.write_wait(1, block * 256);
        s.write_wait(0, block * 256);
    }
    s.run(1_000_000);
    s.drop_dead(2, false);
    s.push();
    s.w.kill_client(1);
    order(s, 0);
    order(s, 1);
    let freed = !holds_deleted(&s.w, 0) && !holds_deleted(&s.w, 1) && holds_deleted(&s.w, 2);
    s.demand("the members that are there did not free it", freed);
    s.restart(2);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    order(s, 2);
    for power in [false, true] {
        let back = (0..3).any(|d| holds_deleted(&s.w, d));
        s.demand("a deleted layer is back", !back);
        s.w.stop_server(2, power);
        s.restart(2);
    }
    s.write_wait(0, 0);
    s.read_each(0, 0);
}

/// Its server answers everything but the device: it is asked to stop its reads, and that may not need the device.
fn hung_device(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    let id = s.id(2);
    s.w.drives[2].slow_least = 600_000_000;
    let op = s.issue(0, What::Write(0), 1, 1);
    s.wait(op);
    let dropped = s.w.meta.pg(0).is_some_and(|r| !r.is_insync(id));
    s.demand("a write ended while the device that hangs counted", dropped);
    s.demand("it was not found by its oldest operation", s.count("drop.drive_hangs") > 0);
    s.read_each(0, 1);
}
