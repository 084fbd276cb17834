//! Leases, votes, managers.

use super::{Scenario, Script};
use drystone_types::{Epoch, PgRecord, Rule};

use crate::event::{Proc, Request};
use crate::meta::{Change, Conditions};
use crate::world::{Place, Time, World};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("P9 a server hangs under a live beacon", None, hung_server),
        Scenario::new("a server restarts under a live beacon", Some(Rule::MeetServer), restarted_server),
        Scenario::new("the last of three servers reads on while the beacons live", None, last_server),
        Scenario::new("P21 votes are promises", None, votes_are_promises)
            .noticing(&[Rule::VotePromise, Rule::VoteWait]),
        Scenario::new("B13 the drop takes longer than any timer", None, slow_drop),
        Scenario::new("B11 a lapsed lease is not taken again under the old map", None, lapsed_lease),
        Scenario::new(
            "a promise to answer no reads whose drop never comes ends by a new epoch",
            Some(Rule::QuietTold),
            promise_without_drop,
        ),
        Scenario::new("a copy goes on in a new epoch with the same members", None, renewal_under_a_copy),
        Scenario::new("P17 a deposed manager", Some(Rule::LeaderKey), deposed),
        Scenario::new("P19 a client ahead of its servers", None, client_ahead),
        Scenario::new("P19 a client behind its servers", None, client_behind),
    ]
}

const SECOND: Time = 1_000_000;
/// The longest a write may wait for a node that is lost (engine §4.8).
const GAP_MAX: Time = 5 * SECOND;

fn lease_holds(w: &World, n: usize) -> bool {
    w.nodes[n].page.iter().any(|until| *until > w.now)
}

/// The drop neither waits for ever nor leaves the frozen thread a lease.
fn hung_server(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    let (begin, thaw) = (s.w.now, s.w.now + 20 * SECOND);
    s.w.frozen.insert(Proc::Server(2), thaw);
    s.write_wait(0, 1);
    let gap = s.w.now - begin;
    s.demand("a write waited more than five seconds for a hung server", gap < GAP_MAX);
    // The old copy wakes with the requests it was sent; none may be answered.
    s.read(0, 1);
    s.run(20 * SECOND);
    let id = s.id(2);
    s.until("it joins again and is filled", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    s.read_each(0, 1);
}

/// A server dies and starts again before its lease is over: the new process has none, until it has read the map.
fn restarted_server(s: &mut Script) {
    s.w.plan.beacon_process = true;
    s.write_wait(0, 1);
    s.until("a lease", |w| lease_holds(w, 2));
    s.w.stop_server(2, false);
    let left = lease_holds(&s.w, 2);
    s.demand("the beacon ended with its server", left);
    let until = s.w.now + 3 * SECOND;
    s.w.cuts.insert((Place::Node(2), Place::Store), until);
    s.w.cuts.insert((Place::Store, Place::Node(2)), until);
    s.w.start_server(2);
    for _ in 0..58 {
        let leased = lease_holds(&s.w, 2);
        s.demand("a server that has read no map has the lease of the one before it", !leased);
        s.run(50_000);
    }
    s.until("a lease of its own", |w| lease_holds(w, 2));
    s.write_wait(0, 1);
    s.read_each(0, 1);
}

/// Two server processes die, their beacons do not: the third one's lease goes on, and with it the reads.
fn last_server(s: &mut Script) {
    (s.w.plan.beacon_process, s.w.managed) = (true, true);
    s.write_wait(0, 1);
    s.until("a lease", |w| lease_holds(w, 2));
    s.w.stop_server(0, false);
    s.w.stop_server(1, false);
    for _ in 0..80 {
        s.run(50_000);
        let leased = lease_holds(&s.w, 2);
        s.demand("the last server lost its lease though every beacon lives", leased);
    }
    let read = s.read(0, 1);
    s.wait(read);
    s.w.start_server(0);
    s.w.start_server(1);
    let ids = [s.id(0), s.id(1), s.id(2)];
    s.until("all are in sync again", |w| w.meta.pg(0).is_some_and(|r| ids.iter().all(|d| r.is_insync(*d))));
    s.write_wait(0, 1);
    s.read_each(0, 1);
}

/// Node 2 is cut off from everybody but the store; the cut ends when the votes are given.
fn cut_until_votes(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    let before = s.count("vote.granted");
    // In short pieces: what is sent into a cut arrives when it ends.
    for _ in 0..100 {
        cut_for(s, 100_000);
        s.run(90_000);
        if s.count("vote.granted") >= before + 2 {
            break;
        }
    }
    let voted = s.count("vote.granted") >= before + 2;
    s.demand("nobody voted", voted);
}

fn cut_for(s: &mut Script, time: Time) {
    let until = s.w.now + time;
    for other in [Place::Node(0), Place::Node(1), Place::Client(0), Place::Manager(0), Place::Manager(1)] {
        s.w.cuts.insert((Place::Node(2), other), until);
        s.w.cuts.insert((other, Place::Node(2)), until);
    }
}

/// The node is heard again while the manager waits: it may not have a lease before its fate is in the store.
fn votes_are_promises(s: &mut Script) {
    cut_until_votes(s);
    wait_without_lease(s);
    let id = s.id(2);
    s.until("it is in sync again", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    s.write_wait(0, 1);
    s.read_each(0, 1);
}

/// Lets the lease end, then demands that there is none until the suspicion is over.
fn wait_without_lease(s: &mut Script) {
    s.until("the end of the lease", |w| !lease_holds(w, 2));
    let mut broken = false;
    s.until("the end of the suspicion", |w| {
        let suspected = !w.meta.suspects.is_empty();
        broken |= suspected && lease_holds(w, 2);
        !suspected
    });
    s.demand("a suspected node took its lease again", !broken);
}

/// Every transaction of a manager takes a second and more: longer than the lease the votes wait for.
fn slow_drop(s: &mut Script) {
    cut_until_votes(s);
    let m = s.w.meta.leader.map_or(0, |(m, _)| m);
    // Shorter than the leader key lives, longer than the wait of the votes.
    let until = s.w.now + 1_900_000;
    s.w.cuts.insert((Place::Manager(m), Place::Store), until);
    wait_without_lease(s);
    let id = s.id(2);
    s.until("it is in sync again", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    s.write_wait(0, 1);
    s.read_each(0, 1);
}

/// A node stands still until its lease is over and it was dropped; then it wakes and cannot read the map.
fn lapsed_lease(s: &mut Script) {
    s.write_wait(0, 1);
    let thaw = s.w.now + 4 * SECOND;
    s.w.frozen.insert(Proc::Server(2), thaw);
    s.w.frozen.insert(Proc::Beacon(2), thaw);
    s.run(3 * SECOND);
    let id = s.id(2);
    s.change(Change::Drop(id));
    for d in 0..2 {
        s.push_to_drive(d);
    }
    s.push_to_client(0);
    s.write_wait(0, 1);
    let until = s.w.now + 8 * SECOND;
    s.w.cuts.insert((Place::Node(2), Place::Store), until);
    s.w.cuts.insert((Place::Store, Place::Node(2)), until);
    for _ in 0..120 {
        s.run(50_000);
        let woken = s.w.now > thaw + 100_000;
        let leased = lease_holds(&s.w, 2);
        s.demand("a lapsed lease was taken again without a look at the map", !(woken && leased));
    }
    s.run(4 * SECOND);
    s.read_each(0, 1);
}

/// Every copy promised to answer no reads, and whoever asked for that drops none of them. Time alone ends no promise,
/// and a drop that rests on one of before the new epoch is refused.
fn promise_without_drop(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    let before = s.w.meta.pg(0).cloned().unwrap_or_default();
    (0..3).for_each(|d| s.w.quiesce_drive(d));
    s.until("the promises", |w| w.drives.iter().all(|d| d.quiescing == 0));
    let read = s.read(0, 1);
    s.run(9 * SECOND);
    let stands = s.w.history.op(read).is_some() && s.w.meta.pg(0) == Some(&before);
    s.must("I10", "a promise to answer no reads ended while a drop could rest on it", stands);
    s.wait(read);
    let renewed = PgRecord { epoch: Epoch(before.epoch.0 + 1), ..before.clone() };
    let only_epoch = s.w.meta.pg(0) == Some(&renewed);
    s.must("I2", "the end of a promise changed more than the epoch, or more than once", only_epoch);
    let id = s.id(1);
    let late = s.w.meta.force(0, Change::Retire(id, before.epoch));
    s.must("I10", "a drop rested on a promise that had ended", late.is_err());
    s.write_wait(0, 2);
    s.read_each(0, 1);
}

/// The epoch moves under a copy, and nothing else: it is the same join, whose copy goes on and is promoted.
fn renewal_under_a_copy(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.write_wait(0, 1);
    s.join(2);
    s.push();
    s.copied(2);
    let (id, epoch) = (s.id(0), s.w.meta.pg(0).map_or(Epoch(0), |r| r.epoch));
    s.change(Change::Renew(id, epoch));
    s.push();
    s.write_wait(0, 1);
    // Only a copy that was told anew, in the new epoch, counts.
    s.promote(2);
    s.push();
    let joins = s.w.drives[2].replica.as_ref().map_or(0, |r| r.stats().joins);
    s.demand("the join began anew with the epoch", joins == 1);
    s.read_each(0, 1);
}

/// A manager that lost its key decides by what it knew; the map is as it saw it, and still nothing happens.
fn deposed(s: &mut Script) {
    s.write_wait(0, 1);
    s.until("a leader", |w| w.meta.leader.is_some());
    let Some((old, key)) = s.w.meta.leader else { return };
    let (base, id) = (s.w.meta.shard().0, s.id(2));
    let thaw = s.w.now + 8 * SECOND;
    s.w.frozen.insert(Proc::Manager(old), thaw);
    s.until("another leader", |w| w.meta.leader.is_some_and(|(m, _)| m != old));
    let conditions = Conditions { leader: key, ..Conditions::default() };
    let unchanged = s.w.meta.shard().0 == base;
    s.demand("the map changed by itself", unchanged);
    s.w.call(Proc::Manager(old), Request::Swap(base, Box::new(conditions), vec![(0, Change::Drop(id))]));
    s.run(100_000);
    let kept = s.w.meta.pg(0).is_some_and(|r| r.is_insync(id));
    s.must("P17", "a deposed manager changed the map", kept && s.count("store.swap_refused") > 0);
    s.write_wait(0, 1);
    s.read_each(0, 1);
}

/// Frames that a second of waiting may cost at most: back-off ends at 50 ms, and three drives answer.
const STORM_MAX: u64 = 400;

/// The client has a newer epoch than its servers, who cannot read the map: they park, it backs off.
fn client_ahead(s: &mut Script) {
    s.write_wait(0, 1);
    let until = s.w.now + 3 * SECOND;
    for n in 0..3 {
        s.w.cuts.insert((Place::Node(n), Place::Store), until);
    }
    let id = s.id(2);
    s.w.quiesce_drive(2);
    s.run(10_000);
    s.change(Change::Drop(id));
    s.push_to_client(0);
    let before = s.count("answer.nack_epoch") + s.count("answer.retry");
    let op = s.write(0, 1);
    s.run(SECOND);
    let storm = s.count("answer.nack_epoch") + s.count("answer.retry") - before;
    s.demand("a client ahead of its servers storms", storm <= STORM_MAX);
    s.demand("a write ended in an epoch its servers do not know", s.w.history.op(op).is_some());
    s.wait(op);
    s.read_each(0, 1);
}

/// The client cannot read the map: each refusal brings this PG's record along.
fn client_behind(s: &mut Script) {
    s.write_wait(0, 1);
    let until = s.w.now + 10 * SECOND;
    s.w.cuts.insert((Place::Client(0), Place::Store), until);
    s.drop_quiesced(2);
    for d in 0..3 {
        s.push_to_drive(d);
    }
    let before = s.count("answer.nack_epoch");
    let begin = s.w.now;
    s.write_wait(0, 1);
    let (gap, nacks) = (s.w.now - begin, s.count("answer.nack_epoch") - before);
    s.demand("a client behind its servers waits for the map", gap < SECOND);
    s.demand("a client behind its servers storms", nacks > 0 && nacks <= 20);
    s.read_each(0, 1);
}
