//! A server process that ends, restarts or freezes under a living beacon, and REVOKE.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod cluster;

use cluster::{id, Cluster};
use drystone_membership::beacon::{BeaconConfig, BeaconCore, Event};
use drystone_membership::policy::LEASE_WAIT;
use drystone_membership::Suspect;
use drystone_types::consts::{BEACON_PERIOD, BEACON_SILENCE};
use drystone_types::{Rev, Rules};

const ROUND: Rev = Rev(7);

/// Three nodes that answer reads, and run for longer than any lease of an earlier beacon.
fn settled() -> Cluster {
    let mut c = Cluster::new(3);
    c.run((LEASE_WAIT / BEACON_PERIOD) as usize + 2);
    assert!((0..3).all(|i| c.has_lease(i)));
    c
}

/// Periods after which a still server is believed to stand still.
const STILL: usize = (BEACON_SILENCE / BEACON_PERIOD) as usize + 1;

fn restarts(c: &mut Cluster, i: usize) {
    let counters = vec![c.counter];
    c.event(i, Event::Server { counters });
}

#[test]
fn a_restarted_server_takes_no_lease_that_was_lent_to_the_one_before_it() {
    let mut c = settled();
    c.answers = None;
    restarts(&mut c, 1);
    assert!(!c.has_lease(1), "at once, not when it would have ended");
    c.run(3);
    assert!(!c.has_lease(1) && c.need_map[1], "it has read no map yet");
    c.read_map(1, Rev(1));
    c.run(2);
    assert!(c.has_lease(1));
    assert!(c.has_lease(0) && c.has_lease(2), "nobody else notices");
}

#[test]
fn a_map_that_the_predecessor_read_founds_no_lease_of_the_restarted_server() {
    let mut c = settled();
    c.answers = None;
    let before = c.now;
    restarts(&mut c, 1);
    c.event(1, Event::Map { rev: Rev(1), read_at: Some(before - 1) });
    c.run(3);
    assert!(!c.has_lease(1));
}

#[test]
fn a_restarted_server_with_an_older_map_does_not_pass_for_its_predecessor() {
    let mut c = settled();
    for i in 0..3 {
        c.read_map(i, Rev(9));
    }
    c.answers = None;
    c.run(2);
    restarts(&mut c, 1);
    c.run(1);
    c.event(1, Event::Map { rev: Rev(8), read_at: Some(c.now) });
    c.run(3);
    assert!(!c.has_lease(1), "its peers' servers have map 9");
    c.read_map(1, Rev(9));
    c.run(2);
    assert!(c.has_lease(1));
}

#[test]
fn counters_that_a_dead_server_left_behind_are_no_sign_of_life() {
    let mut c = settled();
    c.hung[1] = true;
    let counters = vec![c.counter + 5];
    c.event(1, Event::Server { counters: counters.clone() });
    c.run(1);
    c.event(1, Event::Slots(counters));
    c.read_map(1, Rev(1));
    c.run(2);
    assert!(!c.has_lease(1), "the thread moved before this process was seen, not since");
}

#[test]
fn a_server_that_moves_keeps_its_lease_whatever_the_manager_suspects() {
    let mut c = settled();
    c.event(1, Event::Hold { round: ROUND, gone: false });
    assert_eq!(c.held, vec![(1, ROUND, false)]);
    c.run(3);
    assert!(c.has_lease(1));
}

#[test]
fn a_frozen_servers_lease_is_taken_away_and_stays_away_until_the_suspicion_ends() {
    let mut c = settled();
    c.hung[1] = true;
    c.run(STILL);
    assert!(c.has_lease(1), "the lease alone would still run");
    c.event(1, Event::Hold { round: ROUND, gone: false });
    assert_eq!((c.held.clone(), c.has_lease(1)), (vec![(1, ROUND, true)], false), "zero before the answer");
    // It thaws, and maps come that do not show the drop yet: the map's revision alone ends nothing.
    c.hung[1] = false;
    for rev in 2..6 {
        c.answers = Some(Rev(rev));
        for i in 0..3 {
            c.read_map(i, Rev(rev));
        }
        c.run(2);
        assert!(!c.has_lease(1));
    }
    c.event(1, Event::Suspects { as_of: Rev(ROUND.0 - 1), keys: vec![] });
    c.run(2);
    assert!(!c.has_lease(1), "that list was read before the suspicion was written");
    let early = c.now;
    c.answers = None;
    c.run(1);
    c.event(1, Event::Suspects { as_of: ROUND, keys: vec![] });
    c.event(1, Event::Map { rev: Rev(5), read_at: Some(early) });
    c.run(2);
    assert!(!c.has_lease(1), "that map was read before the suspicion ended: it may not show the drop");
    c.read_map(1, Rev(6));
    c.read_map(0, Rev(6));
    c.run(2);
    assert!(c.has_lease(1));
}

#[test]
fn a_server_that_is_gone_needs_no_time_to_be_believed() {
    let mut c = settled();
    c.event(1, Event::Hold { round: ROUND, gone: true });
    assert_eq!((c.held.clone(), c.has_lease(1)), (vec![(1, ROUND, true)], false));
}

#[test]
fn a_server_that_starts_while_its_node_is_suspected_waits_for_the_end_of_the_suspicion() {
    let mut c = settled();
    c.event(1, Event::Hold { round: ROUND, gone: true });
    restarts(&mut c, 1);
    c.run(2);
    c.read_map(1, Rev(1));
    c.run(2);
    assert!(!c.has_lease(1));
    c.event(1, Event::Suspects { as_of: ROUND, keys: vec![] });
    c.run(1);
    c.read_map(1, Rev(1));
    c.run(2);
    assert!(c.has_lease(1));
}

#[test]
fn a_beacon_that_has_just_started_proves_nothing() {
    let mut c = Cluster::new(3);
    c.hung[1] = true;
    c.run(STILL);
    c.event(1, Event::Hold { round: ROUND, gone: true });
    assert_eq!(c.held, vec![(1, ROUND, false)], "a lease of the beacon before it may still run");
}

#[test]
fn a_restarted_beacon_that_finds_its_own_node_suspected_lends_nothing() {
    let mut c = settled();
    let config = BeaconConfig { node: id(1), boot: 2, master: [9; 32], key_epoch: 1, slots: 1, rules: Rules::ALL };
    c.cores[1] = BeaconCore::new(config, c.now);
    c.lease[1] = 0;
    let nodes = (0..3).map(id).collect::<Vec<_>>();
    c.event(1, Event::Voters { version: 1, voters: nodes.clone(), nodes });
    c.run(3);
    assert!(!c.has_lease(1), "it does not know yet what it promised");
    let suspect = Suspect { node: id(1), round: ROUND };
    c.event(1, Event::Suspects { as_of: Rev(ROUND.0 + 1), keys: vec![suspect] });
    c.run(5);
    assert!(!c.has_lease(1));
    c.event(1, Event::Suspects { as_of: Rev(ROUND.0 + 2), keys: vec![] });
    c.run(3);
    assert!(c.has_lease(1));
}
