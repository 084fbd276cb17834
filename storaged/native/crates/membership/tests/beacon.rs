//! Beacons of a small cluster, stepped by hand in virtual time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod cluster;

use cluster::{id, Cluster};
use drystone_membership::beacon::{Action, Event};
use drystone_membership::{DropPolicy, DropReason, Echo, Evidence, Heartbeat, PolicyAction, Suspect};
use drystone_types::consts::{BEACON_PERIOD, READ_LEASE};
use drystone_types::Rev;

#[test]
fn a_single_voter_is_in_quorum_and_has_a_lease() {
    let mut c = Cluster::new(1);
    c.run(3);
    assert!(c.has_lease(0) && c.cores[0].in_quorum());
}

#[test]
fn everything_that_arrived_together_is_echoed_by_the_heartbeat_that_is_due() {
    let mut c = Cluster::new(3);
    let heard: Vec<Vec<u8>> = (1..3)
        .map(|n| {
            let beat = Heartbeat {
                node: id(n),
                boot: 1,
                seq: 7,
                sent_at: c.now,
                map_rev: Rev(1),
                voters_version: 1,
                echoes: vec![],
            };
            beat.seal(&[9; 32], 1)
        })
        .collect();
    c.now += BEACON_PERIOD;
    let mut out = Vec::new();
    for bytes in heard {
        c.cores[0].step(c.now, Event::Datagram(bytes), &mut out);
    }
    assert!(!out.iter().any(|a| matches!(a, Action::Send { .. })), "the rest is read first");
    c.cores[0].step(c.now, Event::Tick, &mut out);
    let sent = out.iter().find_map(|a| match a {
        Action::Send { bytes, .. } => Heartbeat::open(bytes, |_| Some([9; 32])).ok(),
        _ => None,
    });
    let echoed: Vec<_> = sent.unwrap().echoes.iter().map(|e| (e.node, e.seq)).collect();
    assert_eq!(echoed, [(id(1), 7), (id(2), 7)]);
}

#[test]
fn a_node_cut_off_loses_quorum_and_lease_and_the_others_keep_theirs() {
    let mut c = Cluster::new(3);
    c.run(5);
    assert!((0..3).all(|i| c.has_lease(i)));
    c.cut[2] = true;
    c.run(12);
    assert!(!c.has_lease(2) && !c.cores[2].in_quorum());
    assert!(c.has_lease(0) && c.has_lease(1));
    assert_eq!(c.cores[0].silent(c.now), vec![id(2)]);
}

#[test]
fn a_lapsed_lease_returns_only_after_a_map_read_begun_after_the_lapse() {
    let mut c = Cluster::new(3);
    c.run(5);
    let early = c.now;
    c.answers = None;
    c.cut[2] = true;
    c.run(12);
    c.cut[2] = false;
    c.run(5);
    assert!(!c.has_lease(2) && c.need_map[2]);
    c.event(2, Event::Map { rev: Rev(1), read_at: Some(early) });
    c.run(2);
    assert!(!c.has_lease(2));
    c.read_map(2, Rev(1));
    c.run(2);
    assert!(c.has_lease(2));
}

#[test]
fn a_hung_thread_loses_its_lease_under_a_live_beacon() {
    let mut c = Cluster::new(3);
    c.run(5);
    c.hung[1] = true;
    c.run(14);
    assert!(!c.has_lease(1) && c.has_lease(0));
}

#[test]
fn a_server_with_an_older_map_than_its_peers_takes_no_lease() {
    let mut c = Cluster::new(3);
    c.run(5);
    c.answers = None;
    c.event(0, Event::Map { rev: Rev(5), read_at: None });
    c.run(14);
    assert!(c.has_lease(0) && !c.has_lease(1));
    c.read_map(1, Rev(5));
    c.run(2);
    assert!(c.has_lease(1));
}

#[test]
fn a_pause_voids_the_lease() {
    let mut c = Cluster::new(3);
    c.run(5);
    let until = c.lease[0];
    c.now += 400_000 + BEACON_PERIOD;
    assert!(until > c.now, "the lease would still run");
    c.event(0, Event::Tick);
    assert!(!c.has_lease(0));
}

#[test]
fn a_clock_that_stood_still_is_seen_by_the_peers_heartbeats() {
    let mut c = Cluster::new(3);
    c.run(10);
    // The peers' clocks run on while this node's stands still: their next heartbeats come from the future.
    let beat = |node: u8, seq, sent_at| drystone_membership::Heartbeat {
        node: id(node),
        boot: 1,
        seq,
        sent_at,
        map_rev: Rev(1),
        voters_version: 1,
        echoes: vec![],
    };
    for k in 1..20u64 {
        let bytes = beat(1, 1000 + k, c.now + k * BEACON_PERIOD).seal(&[9; 32], 1);
        c.event(0, Event::Datagram(bytes));
    }
    assert!(!c.has_lease(0));
}

#[test]
fn a_vote_is_a_promise_that_only_the_store_ends() {
    let mut c = Cluster::new(3);
    c.run(5);
    c.answers = None;
    let suspect = Suspect { node: id(2), round: Rev(7) };
    c.event(0, Event::AskVote(suspect));
    assert_eq!(c.votes.pop(), Some((0, suspect, false)));
    c.cut[2] = true;
    c.run(6);
    c.event(0, Event::AskVote(suspect));
    c.event(1, Event::AskVote(suspect));
    assert_eq!(c.votes, vec![(0, suspect, true), (1, suspect, true)]);
    c.cut[2] = false;
    c.run(40);
    c.read_map(2, Rev(1));
    c.run(5);
    assert!(!c.has_lease(2), "nobody echoes it");
    c.event(0, Event::Suspects { as_of: Rev(6), keys: vec![] });
    c.run(5);
    assert!(!c.has_lease(2), "that read was older than the suspicion");
    let early = c.now;
    c.event(0, Event::Suspects { as_of: Rev(8), keys: vec![] });
    c.run(5);
    c.event(2, Event::Map { rev: Rev(1), read_at: Some(early) });
    c.run(2);
    assert!(!c.has_lease(2), "that map was read before anybody echoed again: it may not show the drop");
    c.read_map(2, Rev(1));
    c.run(2);
    assert!(c.has_lease(2));
}

#[test]
fn a_lease_ends_within_its_length_after_the_last_promise() {
    let mut c = Cluster::new(3);
    c.run(5);
    c.cut[2] = true;
    c.run(5);
    let suspect = Suspect { node: id(2), round: Rev(7) };
    let voted_at = c.now;
    c.event(0, Event::AskVote(suspect));
    c.event(1, Event::AskVote(suspect));
    c.cut[2] = false;
    c.run(1);
    assert!(c.lease[2] <= voted_at + READ_LEASE);
}

#[test]
fn the_policy_drops_after_a_majority_promised_and_the_lease_is_over() {
    let mut p = DropPolicy::new(vec![id(0), id(1), id(2)]);
    let mut out = Vec::new();
    p.learn(100, Evidence::Silent { node: id(2), voter: id(0) }, &mut out);
    p.tick(100, &mut out);
    assert!(out.is_empty(), "one witness of three is no majority");
    p.learn(100, Evidence::Silent { node: id(2), voter: id(1) }, &mut out);
    p.tick(100, &mut out);
    assert_eq!(out, vec![PolicyAction::WriteSuspect(id(2))]);
    out.clear();
    let suspect = Suspect { node: id(2), round: Rev(7) };
    p.learn(200, Evidence::SuspectWritten(suspect), &mut out);
    assert_eq!(out, vec![PolicyAction::AskVotes(suspect, vec![id(0), id(1)])]);
    out.clear();
    p.learn(300, Evidence::Voted { suspect, voter: id(0), granted: true }, &mut out);
    p.learn(400, Evidence::Voted { suspect, voter: id(1), granted: true }, &mut out);
    p.tick(400 + READ_LEASE, &mut out);
    assert!(out.is_empty());
    p.tick(400 + READ_LEASE * 21 / 20, &mut out);
    assert_eq!(out, vec![PolicyAction::Drop(DropReason::LeaseOver(suspect))]);
}

#[test]
fn a_suspicion_without_witnesses_is_cancelled() {
    let mut p = DropPolicy::new(vec![id(0), id(1), id(2)]);
    let mut out = Vec::new();
    for voter in [id(0), id(1)] {
        p.learn(100, Evidence::Silent { node: id(2), voter }, &mut out);
    }
    p.tick(100, &mut out);
    let suspect = Suspect { node: id(2), round: Rev(7) };
    p.learn(200, Evidence::SuspectWritten(suspect), &mut out);
    p.learn(300, Evidence::Heard { node: id(2), voter: id(0) }, &mut out);
    out.clear();
    p.tick(300, &mut out);
    assert_eq!(out, vec![PolicyAction::Cancel(suspect)]);
}

/// A heartbeat of node 1 that echoes the newest one of node 0.
fn answer(c: &mut Cluster, boot: u64, seq: u64) -> Event {
    let mut out = Vec::new();
    c.now += BEACON_PERIOD;
    c.cores[0].step(c.now, Event::Tick, &mut out);
    let sent = out.iter().find_map(|a| match a {
        Action::Send { bytes, .. } => Heartbeat::open(bytes, |_| Some([9; 32])).ok(),
        _ => None,
    });
    let sent = sent.unwrap();
    let echoes = vec![Echo { node: id(0), boot: sent.boot, seq: sent.seq }];
    let sent_at = c.now;
    let beat = Heartbeat { node: id(1), boot, seq, sent_at, map_rev: Rev(1), voters_version: 1, echoes };
    Event::Datagram(beat.seal(&[9; 32], 1))
}

#[test]
fn a_heartbeat_recorded_in_an_earlier_boot_of_a_peer_is_refused_and_counted() {
    let mut c = Cluster::new(3);
    let mut out = Vec::new();
    let old = answer(&mut c, 70, 5);
    c.cores[0].step(c.now, old, &mut out);
    let older: Vec<Event> = (6..20).map(|seq| answer(&mut c, 70, seq)).collect();
    let new = answer(&mut c, 71, 1);
    c.cores[0].step(c.now, new.clone(), &mut out);
    c.now += 2 * READ_LEASE;
    for recorded in older {
        c.cores[0].step(c.now, recorded, &mut out);
        c.cores[0].step(c.now, new.clone(), &mut out);
    }
    assert!(c.cores[0].silent(c.now).contains(&id(1)), "what was recorded keeps nobody alive");
    let refused = c.cores[0].refused();
    assert_eq!((refused.earlier_boot, refused.stale), (14, 14));
    let next = answer(&mut c, 72, 1);
    c.cores[0].step(c.now, next, &mut out);
    assert!(!c.cores[0].silent(c.now).contains(&id(1)), "a new boot is a new life");
}

#[test]
fn what_was_recorded_before_a_restart_neither_keeps_a_dead_peer_alive_nor_displaces_a_living_one() {
    let mut c = Cluster::new(3);
    // Of boots that this beacon, which has just started, knows nothing of; and in answer to an earlier life of its own.
    let recorded = |boot, seq| {
        let echoes = vec![Echo { node: id(0), boot: 99, seq: 1 }];
        let beat = Heartbeat { node: id(1), boot, seq, sent_at: 5, map_rev: Rev(9), voters_version: 1, echoes };
        Event::Datagram(beat.seal(&[9; 32], 1))
    };
    let mut out = Vec::new();
    for seq in 1..40 {
        c.now += BEACON_PERIOD;
        c.cores[0].step(c.now, recorded(50, seq), &mut out);
        c.cores[0].step(c.now, Event::Tick, &mut out);
    }
    assert!(c.cores[0].silent(c.now).contains(&id(1)), "a dead node's heartbeats were believed");
    assert!(c.cores[0].refused().unanswered > 0, "nobody is told of them");
    let alive = answer(&mut c, 51, 1);
    c.cores[0].step(c.now, alive, &mut out);
    for (boot, seq) in [(50, 100), (49, 1), (50, 101)] {
        c.cores[0].step(c.now, recorded(boot, seq), &mut out);
    }
    let alive = answer(&mut c, 51, 2);
    let before = c.cores[0].refused();
    c.cores[0].step(c.now, alive, &mut out);
    assert_eq!(c.cores[0].refused(), before, "the peer that lives is refused");
    assert!(!c.cores[0].silent(c.now).contains(&id(1)));
}

#[test]
fn beacons_that_start_or_restart_believe_each_other_within_a_second() {
    let mut c = Cluster::new(3);
    c.run(4);
    assert!((0..3).all(|i| c.cores[i].silent(c.now).is_empty() && c.has_lease(i)));
    c.restart(1, 2);
    c.run(4);
    for i in 0..3 {
        assert!(c.cores[i].silent(c.now).is_empty(), "node {i} does not believe who restarted, or it them");
        assert_eq!(c.cores[i].refused().list().iter().map(|(_, n)| n).sum::<u64>(), 0);
    }
}

#[test]
fn every_kind_of_bad_datagram_is_counted() {
    let mut c = Cluster::new(2);
    let good =
        Heartbeat { node: id(0), boot: 1, seq: 1, sent_at: 0, map_rev: Rev(1), voters_version: 1, echoes: vec![] };
    let mut out = Vec::new();
    for bytes in [vec![0; 100], good.seal(&[8; 32], 1), good.seal(&[9; 32], 1)] {
        c.cores[0].step(c.now, Event::Datagram(bytes), &mut out);
    }
    let refused = c.cores[0].refused();
    assert_eq!((refused.malformed, refused.bad_mac, refused.own_name), (1, 1, 1));
    assert_eq!(refused.list().iter().map(|(_, n)| n).sum::<u64>(), 3);
}
