//! Rules of leases, votes and map transactions: each schedule here breaks without one of them.

use drystone_types::{DriveId, Epoch, MsgType, Rule};

use super::{Scenario, Script};
use crate::event::{End, Proc, Request};
use crate::meta::{Change, Conditions};
use crate::net::node_uuid;
use crate::plan::Plan;
use crate::storage;
use crate::world::{Place, Time, World};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a hung thread keeps no lease", Some(Rule::SlotFresh), hung_thread),
        Scenario::new("a server behind its peers' map loses its lease", Some(Rule::EchoMap), behind_peers),
        Scenario::new("B11 a lapsed lease among peers that know no more", Some(Rule::LeaseReadMap), lapsed_apart)
            .in_world(five_nodes),
        Scenario::new("a guest whose clock stood still", Some(Rule::PauseVoids), stopped_guest),
        Scenario::new("a server wakes while its drop is on the way", Some(Rule::Hold), wakes_during_drop),
        Scenario::new("a drop after its suspicion was withdrawn", Some(Rule::SuspectKey), withdrawn_suspicion),
        Scenario::new("a copy that ended in an epoch that is over", Some(Rule::PromoteEpoch), old_copy),
        Scenario::new("a drive returns as it was before its last open", Some(Rule::OpenNonce), before_last_open),
        Scenario::new("a wiped drive under its old id", Some(Rule::OpenNonce), wiped),
        Scenario::new("B14 disjoint majorities of voters", Some(Rule::OneVoter), disjoint).in_world(four_nodes),
    ]
}

const SECOND: Time = 1_000_000;

fn four_nodes() -> Plan {
    Plan { nodes: 4, ..Plan::quiet() }
}

fn five_nodes() -> Plan {
    Plan { nodes: 5, ..Plan::quiet() }
}

fn lease_holds(w: &World, n: usize) -> bool {
    w.nodes[n].page.iter().any(|until| *until > w.now)
}

/// Both directions between two places.
fn cut(s: &mut Script, a: Place, b: Place, until: Time) {
    s.w.cuts.insert((a, b), until);
    s.w.cuts.insert((b, a), until);
}

/// The server stands still while its beacon lives on and nobody asks for a drop.
fn hung_thread(s: &mut Script) {
    s.write_wait(0, 1);
    s.until("a lease", |w| lease_holds(w, 2));
    let thaw = s.w.now + 5 * SECOND;
    s.w.frozen.insert(Proc::Server(2), thaw);
    s.run(3 * SECOND);
    let leased = lease_holds(&s.w, 2);
    s.must("LEASE", "a server that stands still has a lease", !leased);
    s.until("a lease again", |w| w.now > thaw && lease_holds(w, 2));
    s.read_each(0, 1);
}

/// The others have a newer map than node 2, which cannot read it: it may serve what no longer holds.
fn behind_peers(s: &mut Script) {
    s.write_wait(0, 1);
    let until = s.w.now + 4 * SECOND;
    cut(s, Place::Node(2), Place::Store, until);
    s.drop_quiesced(1);
    s.push_to_drive(0);
    s.push_to_drive(1);
    s.push_to_client(0);
    s.run(3 * SECOND);
    let leased = lease_holds(&s.w, 2);
    s.must("LEASE", "a server has a lease though its peers have a newer map", !leased);
    s.until("the lease is back", |w| lease_holds(w, 2));
    s.join(1);
    s.push();
    s.promote(1);
    s.push();
    s.read_each(0, 1);
}

/// The proof of the drop is the beacon's word that there is no lease until the suspicion ends.
fn wakes_during_drop(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    s.until("a lease", |w| lease_holds(w, 2));
    let held = s.count("lease.held");
    let op = s.write(0, 1);
    // In short pieces, so that it wakes when the script wants.
    for _ in 0..200 {
        let thaw = s.w.now + 40_000;
        s.w.frozen.insert(Proc::Server(2), thaw);
        s.run(30_000);
        if s.count("lease.held") > held {
            break;
        }
    }
    s.demand("nobody asked the beacon", s.count("lease.held") > held);
    let Some((m, _)) = s.w.meta.leader else { return };
    let until = s.w.now + 900_000;
    s.w.cuts.insert((Place::Manager(m), Place::Store), until);
    s.run(SECOND);
    s.wait(op);
    let id = s.id(2);
    s.until("it is in sync again", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    s.read_each(0, 1);
}

/// The node was heard again and has its lease back; the transaction of the drop comes late.
fn withdrawn_suspicion(s: &mut Script) {
    s.write_wait(0, 1);
    s.until("a leader", |w| w.meta.leader.is_some());
    let Some((m, leader)) = s.w.meta.leader else { return };
    let Some(suspect) = s.w.meta.suspect(leader, node_uuid(2)) else { return };
    let gone = s.w.meta.unsuspect(leader, suspect);
    s.demand("the suspicion was not withdrawn", gone);
    s.run(SECOND);
    s.until("a lease", |w| lease_holds(w, 2));
    let (base, id) = (s.w.meta.shard().0, s.id(2));
    let conditions = Conditions { leader, suspect: Some(suspect), ..Conditions::default() };
    s.w.call(Proc::Manager(m), Request::Swap(base, Box::new(conditions), vec![(0, Change::Drop(id))]));
    s.run(100_000);
    let kept = s.w.meta.pg(0).is_some_and(|r| r.is_insync(id));
    s.must("LEASE", "a drop without its suspicion", kept && s.count("store.swap_refused") > 0);
    s.write_wait(0, 1);
    s.read_each(0, 1);
}

/// Writes of the newer epoch did not wait for the joiner that was complete in the older one.
fn old_copy(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.write_wait(0, 1);
    s.join(2);
    s.push();
    s.copied(2);
    let (id, epoch) = (s.id(2), s.w.meta.pg(0).map_or(Epoch(0), |r| r.epoch));
    // The joiner hears no more: in the next epoch it has completed nothing.
    let until = s.w.now + SECOND;
    for other in [Place::Node(0), Place::Node(1), Place::Store] {
        cut(s, Place::Node(2), other, until);
    }
    s.drop_quiesced(1);
    s.until("a leader", |w| w.meta.leader.is_some());
    let Some((m, leader)) = s.w.meta.leader else { return };
    let base = s.w.meta.shard().0;
    let conditions = Conditions { leader, ..Conditions::default() };
    let change = (0, Change::Promote(id, epoch));
    s.w.call(Proc::Manager(m), Request::Swap(base, Box::new(conditions), vec![change]));
    s.run(100_000);
    let joins = s.w.meta.pg(0).is_some_and(|r| r.joiner(id).is_some());
    s.must("I2", "a copy of an older epoch made a drive in-sync", joins);
    s.run(SECOND);
    s.push();
    s.promote(2);
    s.push();
    s.read_each(0, 1);
}

/// Puts another medium into a stopped server's bay and starts it; demands that it is not opened.
fn must_be_refused(s: &mut Script, d: usize, dev: crate::device::Device) {
    let newest = std::mem::replace(&mut s.w.drives[d].dev, dev);
    // Nothing is known of this medium.
    s.w.drives[d].dev.lies = true;
    s.w.drives[d].dev.shadow.distrust();
    let (node, refused) = (s.w.drives[d].node, s.count("drive.open_refused"));
    s.w.start_server(node);
    s.run(SECOND);
    let closed = s.w.drives[d].replica.is_none() && s.count("drive.open_refused") > refused;
    s.must("OPEN", "a drive was opened that is not what the cluster knows of it", closed);
    s.w.stop_server(node, false);
    s.w.drives[d].dev = newest;
}

/// An image of the drive from before its last open is put back; the newest one is still there.
fn before_last_open(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    s.run(2 * SECOND);
    s.w.stop_server(2, true);
    let old = s.w.drives[2].dev.copy();
    s.restart(2);
    let id = s.id(2);
    s.until("it is in sync", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    for block in 0..8 {
        s.write_wait(0, block);
    }
    s.w.stop_server(2, false);
    must_be_refused(s, 2, old);
    s.restart(2);
    s.until("the newest is in sync", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    s.read_each(0, 1);
}

/// Nothing is left on the drive. It comes back with another id, and is filled.
fn wiped(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    s.w.stop_server(2, false);
    let blank = storage::blank_device(s.w.plan.drive_slots);
    must_be_refused(s, 2, blank);
    let old = s.id(2);
    let forgotten = s.w.meta.remove_drive(old);
    s.demand("the drive can not be forgotten", forgotten.is_ok());
    s.w.new_drive(2, storage::blank_device(s.w.plan.drive_slots));
    s.w.start_server(2);
    let id: DriveId = s.id(2);
    s.until("its successor is filled", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    s.write_wait(0, 1);
    s.read_each(0, 1);
}

/// Two halves that do not hear each other: with two lists of voters each would be a majority.
fn disjoint(s: &mut Script) {
    s.w.managed = true;
    s.w.meta.voters = (0..3).map(node_uuid).collect();
    s.w.meta.voters_version += 1;
    s.w.tell_voters(&[0, 1, 2, 3]);
    s.run(SECOND);
    s.write_wait(0, 1);
    s.until("leases", |w| (0..3).all(|n| lease_holds(w, n)));
    let until = s.w.now + 5 * SECOND;
    for near in [Place::Node(0), Place::Node(1)] {
        for far in [Place::Node(2), Place::Node(3), Place::Manager(0), Place::Manager(1)] {
            cut(s, near, far, until);
        }
    }
    let others = (1..4).map(node_uuid).collect();
    let seen = s.w.voters_seen();
    if s.w.meta.set_voters(others, seen) {
        s.w.tell_voters(&[2, 3]);
    }
    s.run(6 * SECOND);
    s.until("every copy", |w| w.meta.pg(0).is_some_and(|r| r.insync.len() == 3));
    s.write_wait(0, 1);
    s.read_each(0, 1);
}

/// A majority echoes a node that was dropped while it stood still, and none of them has a newer map to show.
fn lapsed_apart(s: &mut Script) {
    s.write_wait(0, 1);
    let begin = s.w.now;
    let thaw = begin + 4 * SECOND;
    s.w.frozen.insert(Proc::Server(2), thaw);
    s.w.frozen.insert(Proc::Beacon(2), thaw);
    s.run(3 * SECOND);
    let until = begin + 9 * SECOND;
    for near in [Place::Node(2), Place::Node(3), Place::Node(4)] {
        for far in [Place::Node(0), Place::Node(1)] {
            cut(s, near, far, until);
        }
        cut(s, near, Place::Store, until);
    }
    let id = s.id(2);
    s.change(Change::Drop(id));
    for d in 0..2 {
        s.push_to_drive(d);
    }
    s.push_to_client(0);
    s.write_wait(0, 1);
    for _ in 0..100 {
        s.run(50_000);
        let leased = lease_holds(&s.w, 2);
        s.must("LEASE", "a lapsed lease was taken again without a look at the map", !(s.w.now > thaw && leased));
    }
    s.until("the end of the cuts", |w| w.now > until + SECOND);
    s.until("leases", |w| lease_holds(w, 0) && lease_holds(w, 1));
    s.read_each(0, 1);
}

/// By its own clock the lease of a guest that was not run still holds; its peers' heartbeats tell that it does not.
fn stopped_guest(s: &mut Script) {
    s.write_wait(0, 1);
    s.until("a lease", |w| lease_holds(w, 2));
    let thaw = s.w.now + 5 * SECOND;
    s.w.stop_clock(2, 5 * SECOND);
    s.run(3 * SECOND);
    let id = s.id(2);
    s.change(Change::Drop(id));
    s.push_to_drive(0);
    s.push_to_drive(1);
    // The next owner does not ask the dropped drive; the old one knows nothing.
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.hook(|f| f.to_server && f.hdr.kind == MsgType::Read && f.from == End::Client(0) && f.drive != 2);
    let before = thaw - 20_000 - s.w.now;
    s.run(before);
    s.read(0, 1);
    s.run(2 * SECOND);
    s.unhook();
    s.read_each(c, 1);
}
