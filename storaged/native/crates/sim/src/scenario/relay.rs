//! A client that alone does not reach a server, and calls that must end though a part of the cluster is away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use drystone_types::MsgType;

use super::script::VOL;
use super::{Scenario, Script};
use crate::event::End;
use crate::meta::Change;
use crate::plan::{Fault, Plan};
use crate::world::{HookVerdict, Place, Time, World};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a client that alone does not reach a server is served by RELAY", None, relayed_both),
        Scenario::new("RELAY over a way that is cut towards the server only", None, relayed_out),
        Scenario::new("RELAY over a way that is cut towards the client only", None, relayed_back),
        Scenario::new("L4 an attach over a PG without a reachable copy goes on when it returns", None, unreachable_pg)
            .in_world(pairs),
        Scenario::new("L4 an attach with two of three servers dead", None, last_of_three),
        Scenario::new("L6 a fence while a drive is out is proven without it", None, fence_without_one),
        Scenario::new("L7 NEED_TICKET is cured by one LAYER", None, one_layer).in_world(deep),
        Scenario::new("L10 a device error on one copy ends in an answer", None, device_error),
    ]
}

const SECOND: Time = 1_000_000;

/// Four PGs of two copies over four nodes: PG 0 alone is on nodes 0 and 1.
fn pairs() -> Plan {
    Plan { nodes: 4, copies: 2, pgs: 4, chunks: 16, ..Plan::quiet() }
}

fn deep() -> Plan {
    Plan { depth: 16, ..Plan::quiet() }
}

fn relayed_both(s: &mut Script) {
    relayed(s, &[(Place::Client(0), Place::Node(2)), (Place::Node(2), Place::Client(0))]);
}

fn relayed_out(s: &mut Script) {
    relayed(s, &[(Place::Client(0), Place::Node(2))]);
}

fn relayed_back(s: &mut Script) {
    relayed(s, &[(Place::Node(2), Place::Client(0))]);
}

/// Everybody but this client reaches the server, so it stays a member and takes every write.
fn relayed(s: &mut Script, cut: &[(Place, Place)]) {
    s.w.managed = true;
    s.write_wait(0, 1);
    let (drops, until) = (s.count("pg.drops"), s.w.now + 20 * SECOND);
    s.w.cuts.extend(cut.iter().map(|way| (*way, until)));
    for _ in 0..3 {
        s.write_wait(0, 1);
        let read = s.read(0, 1);
        s.wait(read);
    }
    s.demand("it took until the cut was over", s.w.now < until);
    s.demand("nothing was relayed", s.count("net.relayed") > 0);
    // What was sent into the cut arrives late.
    let left = until.saturating_sub(s.w.now);
    s.run(left + 3 * SECOND);
    let id = s.id(2);
    let kept = s.count("pg.drops") == drops && s.w.meta.pg(0).is_some_and(|r| r.is_insync(id));
    s.demand("a server was dropped because one client does not reach it", kept);
}

/// Both copies of one PG are away; nobody acts when they return.
fn unreachable_pg(s: &mut Script) {
    (s.w.managed, s.w.plan.beacon_process) = (true, true);
    for chunk in 0..16 {
        s.write_wait(0, chunk * 1024);
    }
    s.w.kill_client(0);
    s.w.stop_server(0, false);
    s.w.stop_server(1, false);
    let c = s.attach();
    s.run(10 * SECOND);
    s.demand("active without a copy of one PG", !s.w.clients[c].was_active);
    s.w.start_server(0);
    s.w.start_server(1);
    s.until_active(c);
    (0..16).for_each(|chunk| s.write_wait(c, chunk * 1024));
    s.until("every PG has all its copies", World::whole);
}

/// The last copy serves, once the others are dropped.
fn last_of_three(s: &mut Script) {
    (s.w.managed, s.w.plan.beacon_process) = (true, true);
    s.write_wait(0, 1);
    s.w.kill_client(0);
    s.w.stop_server(0, false);
    s.w.stop_server(1, false);
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.read_each(c, 1);
    s.w.start_server(0);
    s.w.start_server(1);
    s.until("every PG has all its copies", World::whole);
    s.write_wait(c, 1);
    s.read_each(c, 1);
}

/// The members that are left prove the fence; the drive that was out learns the generation when it joins.
fn fence_without_one(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_dead(2, true);
    s.push();
    let proven = s.count("fence.done");
    let begun = s.w.inject(Fault::Fence, 1);
    s.demand("there was nothing to fence", begun);
    s.until("the proof of both members", |w| w.counts.get("fence.done") == proven + 2);
    let c = s.w.owner_of(VOL).unwrap_or(0);
    s.until_active(c);
    s.restart(2);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    let late = s.write(0, 1);
    s.run(SECOND);
    s.demand("the fenced client was answered", s.w.history.op(late).is_none() && s.w.clients[0].fenced);
    s.write_wait(c, 1);
    s.read_each(c, 1);
}

/// A drive was promoted while the client was idle: it knows the generation and not the ticket. Many reads at
/// once meet that, one LAYER is the cure.
fn one_layer(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_dead(2, true);
    s.push();
    // A ticket of a generation that the drive never saw.
    s.w.kill_client(0);
    let c = s.attach();
    s.until_active(c);
    s.restart(2);
    s.join(2);
    (0..3).for_each(|d| s.push_to_drive(d));
    s.promote(2);
    (0..3).for_each(|d| s.push_to_drive(d));
    // One of two copies will not answer, so that every read comes to the other.
    s.drop_quiesced(0);
    (1..3).for_each(|d| s.push_to_drive(d));
    let layers = Arc::new(AtomicU64::new(0));
    let seen = layers.clone();
    s.rule(move |f| {
        let asks = f.to_server && f.from == End::Client(c);
        if asks && f.drive == 2 && f.hdr.kind == MsgType::Layer {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        if asks && f.drive != 2 && f.hdr.kind == MsgType::Read {
            HookVerdict::Hold
        } else {
            HookVerdict::Pass
        }
    });
    s.push_to_client(c);
    s.until("a connection to the new copy", |w| w.conn_up(End::Client(c), 2).is_some());
    let before = s.count("answer.need_ticket");
    let ops: Vec<_> = (0..12).map(|b| s.read(c, b)).collect();
    s.run(100_000);
    let (asked, told) = (s.count("answer.need_ticket") - before, layers.load(Ordering::Relaxed));
    s.demand("no ticket was missing", asked > 0);
    s.demand(&format!("{told} LAYERs for {asked} times NEED_TICKET"), told == 1);
    s.unhook();
    s.release(|_| true);
    ops.into_iter().for_each(|op| s.wait(op));
    s.write_wait(c, 1);
    let told = layers.load(Ordering::Relaxed);
    s.demand("the ticket is missing again", told == 1);
}

/// One copy cannot be read: every request ends, with the bytes of another copy.
fn device_error(s: &mut Script) {
    s.write_wait(0, 1);
    s.run(SECOND);
    let sectors = s.w.drives[0].dev.sectors();
    s.w.drives[0].dev.unreadable.extend(sectors);
    for _ in 0..3 {
        let read = s.read(0, 1);
        s.wait(read);
        s.write_wait(0, 1);
    }
    s.demand("a request failed", s.count("io.eio") == 0);
    s.w.drives[0].dev.unreadable.clear();
    s.drop_quiesced(0);
    s.change(Change::Join(s.id(0)));
    s.push();
    s.promote(0);
    s.push();
}
