//! One volume over two PGs of the same drives.

use drystone_types::{Flags, MsgType, Rule};

use super::{Scenario, Script};
use crate::meta::Change;
use crate::plan::Plan;

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("B3 RECOVERED of one PG while another is divergent", None, divergent).in_world(two_pgs),
        Scenario::new("P16 a write that does not end bounds the lists", Some(Rule::W3), bounded_lists)
            .in_world(two_pgs),
        Scenario::new("P16 a PG below min_insync holds nobody else up", None, below_min_insync).in_world(two_pgs),
        Scenario::new("P16 the last STABLE of an idle volume is lost", Some(Rule::StableAgain), idle_stable),
    ]
}

fn two_pgs() -> Plan {
    Plan { pgs: 2, chunks: 8, min_insync: 2, ..Plan::quiet() }
}

/// First blocks of a chunk in PG 0 and of one in PG 1.
pub(super) fn one_of_each(s: &mut Script) -> [u64; 2] {
    for chunk in 0..8 {
        s.write_wait(0, chunk * 1024);
    }
    [0, 1].map(|pg| (0..8).map(|chunk| chunk * 1024).find(|b| s.pg_of(*b) == pg).unwrap_or(0))
}

/// The roll of PG 1 is held while PG 0 goes through another epoch: nothing is active, nothing recovered.
fn divergent(s: &mut Script) {
    let [_, block] = one_of_each(s);
    s.hook(|f| f.to_server && f.hdr.kind == MsgType::Write && f.drive != 0);
    s.write(0, block);
    s.run(20_000);
    s.w.kill_client(0);
    s.discard_held();
    s.hook(|f| f.to_server && f.hdr.flags.has(Flags::ROLL) && f.hdr.kind == MsgType::Write);
    let c = s.attach();
    s.run(200_000);
    s.demand("nothing was rolled", !s.w.held.is_empty());
    s.w.quiesce_drive(2);
    s.run(10_000);
    let id = s.id(2);
    s.change(Change::Drop(id));
    s.push();
    s.run(200_000);
    s.demand("active before every PG was rolled", !s.w.clients[c].was_active);
    s.demand("divergent blocks count as stable", s.is_unstable(0, block));
    s.w.kill_client(c);
    s.unhook();
    s.discard_held();
    let c = s.attach();
    s.until_active(c);
    s.read_each(c, block);
}

/// Versions above stable that a sequencer may hold, with those it was about to give out.
const VERSIONS_MAX: u64 = 16_384 + 64;
/// More writes than that.
const WRITES: u64 = 17_000;

/// One copy of a write of PG 1 does not answer; PG 0 takes writes until the list is full, then waits with it.
fn bounded_lists(s: &mut Script) {
    let [free, stuck] = one_of_each(s);
    s.hook(move |f| f.to_server && f.hdr.kind == MsgType::Write && f.drive == 2 && f.hdr.block == stuck);
    let waits = s.write(0, stuck);
    let mut widest = 0;
    for i in 0..WRITES {
        s.write(0, free + i % 512);
        if i % 16 == 0 {
            s.run(2_000);
            widest = widest.max(width(s));
        }
    }
    s.run(1_000_000);
    widest = widest.max(width(s));
    s.demand("a write ended without one of its members", s.w.history.op(waits).is_some());
    s.must("W3", "the list is not bounded", widest <= VERSIONS_MAX);
    s.demand("the bound was not reached", widest >= VERSIONS_MAX - 64);
    s.unhook();
    s.release(|_| true);
    s.until("every write", |w| w.history.open_of(0) == 0);
}

/// Below min_insync a write waits unissued, so that it holds nobody else up; reads go on.
fn below_min_insync(s: &mut Script) {
    let [free, stuck] = one_of_each(s);
    for d in [1, 2] {
        s.w.quiesce_drive(d);
        s.run(10_000);
        let id = s.id(d);
        s.change_in(1, Change::Drop(id));
        s.change_in(0, Change::Drop(id));
        s.change_in(0, Change::Join(id));
        s.push();
        s.until("the copy", |w| w.meta.pg(0).is_some_and(|r| w.meta.copied.contains(&(0, id, r.epoch))));
        let epoch = s.w.meta.pg(0).map(|r| r.epoch).unwrap_or_default();
        s.change_in(0, Change::Promote(id, epoch));
        s.push();
    }
    let waits = s.write(0, stuck);
    s.run(100_000);
    s.write_wait(0, free);
    s.read_each(0, free);
    s.demand("a write went on below min_insync", s.w.history.op(waits).is_some());
    let id = s.id(1);
    s.change_in(1, Change::Join(id));
    s.push();
    s.until("the copy", |w| w.meta.pg(1).is_some_and(|r| w.meta.copied.contains(&(1, id, r.epoch))));
    let epoch = s.w.meta.pg(1).map(|r| r.epoch).unwrap_or_default();
    s.change_in(1, Change::Promote(id, epoch));
    s.push();
    s.wait(waits);
    s.read_each(0, stuck);
}

fn width(s: &Script) -> u64 {
    let versions = s.w.clients[0].seq.as_ref().map(|q| q.versions());
    versions.map_or(0, |(stable, last)| last.seq - stable.seq)
}

/// STABLE is repeated until every drive acknowledged it: an idle volume's lists become empty.
fn idle_stable(s: &mut Script) {
    s.rule(|f| {
        if f.hdr.kind == MsgType::Stable && f.drive == 2 {
            crate::world::HookVerdict::Lose
        } else {
            crate::world::HookVerdict::Pass
        }
    });
    s.write_wait(0, 1);
    s.run(2_000_000);
    s.demand("STABLE was not lost", s.is_unstable(2, 1));
    // A connection that loses frames is a broken one; over the next one STABLE comes again.
    let conn = s.w.conn_up(crate::event::End::Client(0), 2);
    s.w.break_conn(conn.unwrap_or_default(), false);
    s.unhook();
    s.run(3_000_000);
    s.must("P16", "the last STABLE was not repeated", !s.is_unstable(2, 1));
}
