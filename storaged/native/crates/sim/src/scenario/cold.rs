//! Everything starts at once, and nobody is at the keyboard.

use super::{Scenario, Script};
use crate::plan::Plan;
use crate::world::{Time, World};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a cold start of everything, one node missing", None, one_missing).in_world(cluster),
        Scenario::new("a cold start of everything, the nodes one after the other", None, one_by_one).in_world(cluster),
        Scenario::new("a cold start in which the clients come first", None, clients_first).in_world(cluster),
    ]
}

const SECOND: Time = 1_000_000;
/// Until a client writes again after the last server that is needed has started.
const BACK_MAX: Time = 10 * SECOND;

fn cluster() -> Plan {
    Plan { pgs: 4, chunks: 8, min_insync: 2, depth: 8, beacon_process: true, ..Plan::quiet() }
}

/// Writes everywhere, then takes the power from all machines in the middle of more writes.
fn all_dark(s: &mut Script) {
    s.w.managed = true;
    for chunk in 0..8 {
        s.write_wait(0, chunk * 1024);
    }
    for chunk in 0..8 {
        s.write(0, chunk * 1024 + 1);
    }
    s.run(200);
    s.w.kill_client(0);
    (0..3).for_each(|n| s.w.stop_server(n, true));
    s.run(30 * SECOND);
}

/// Attaches, writes and reads all PGs; the time it took is bounded.
fn served_again(s: &mut Script, c: usize, since: Time) {
    s.until_active(c);
    (0..8).for_each(|chunk| s.write_wait(c, chunk * 1024 + 2));
    let took = s.w.now - since;
    s.demand(&format!("it took {} ms", took / 1000), took < BACK_MAX);
    for chunk in 0..8 {
        s.read_each(c, chunk * 1024);
        s.read_each(c, chunk * 1024 + 1);
    }
}

fn one_missing(s: &mut Script) {
    all_dark(s);
    let since = s.w.now;
    s.w.start_server(0);
    s.w.start_server(1);
    let c = s.attach();
    served_again(s, c, since);
    s.w.start_server(2);
    s.until("the missing node is filled", World::whole);
    s.read_each(c, 0);
}

fn one_by_one(s: &mut Script) {
    all_dark(s);
    let c = s.attach();
    s.w.start_server(2);
    s.run(15 * SECOND);
    s.demand("served by one of three, below min_insync", !s.w.clients[c].was_active || s.w.operations < 9);
    let since = s.w.now;
    s.w.start_server(1);
    served_again(s, c, since);
    s.run(15 * SECOND);
    s.w.start_server(0);
    s.until("the last node is filled", World::whole);
}

fn clients_first(s: &mut Script) {
    all_dark(s);
    let c = s.attach();
    s.run(20 * SECOND);
    s.demand("active without a server", !s.w.clients[c].was_active);
    let since = s.w.now;
    (0..3).for_each(|n| s.w.start_server(n));
    served_again(s, c, since);
    s.until("every PG has all its copies", World::whole);
}
