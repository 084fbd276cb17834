//! Pauses seen by heartbeats that are read late: every one that counts, and no other.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use drystone_membership::peers::{Heard, Peers};
use drystone_membership::{Echo, Heartbeat};
use drystone_types::consts::{BEACON_PERIOD, LEASE_SLOT_FRESH};
use drystone_types::{Rev, Uuid};

/// A peer whose heartbeats wait in the socket for the next look; both sides are late by up to `late` each time.
struct Pair {
    peers: Peers,
    rng: u64,
    late: u64,
    sent: u64,
    look: u64,
    seq: u64,
    /// The own clock stood still for so long.
    stood: u64,
}

impl Pair {
    fn new(late: u64, phase: u64) -> Pair {
        let sent = 1_000_000 + phase;
        Pair { peers: Peers::default(), rng: 1 + late + phase, late, sent, look: 1_000_000, seq: 0, stood: 0 }
    }
    fn jitter(&mut self) -> u64 {
        self.rng = self.rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.rng >> 33) % (self.late + 1)
    }
    /// One look: everything sent before it is read. True when it showed a pause.
    fn look(&mut self) -> bool {
        self.look += BEACON_PERIOD + self.jitter();
        let mut paused = false;
        let (me, echoed) = (Uuid([1; 16]), self.look);
        self.peers.sent(echoed, self.look - self.stood);
        while self.sent <= self.look {
            self.seq += 1;
            let (node, voters_version) = (Uuid([2; 16]), 0);
            let echoes = vec![Echo { node: me, boot: 1, seq: echoed }];
            let beat =
                Heartbeat { node, boot: 1, seq: self.seq, sent_at: self.sent, map_rev: Rev(0), voters_version, echoes };
            paused |= self.peers.heard(me, 1, self.look - self.stood, &beat) == Heard::Paused;
            self.sent += BEACON_PERIOD + self.jitter();
        }
        paused
    }
}

#[test]
fn reading_late_never_looks_like_a_pause() {
    for late in [0, 60, 2_000, 5_000, 20_000, 45_000] {
        for phase in [0, 1, 75_000, 149_999] {
            let mut pair = Pair::new(late, phase);
            // Six hours: the phases of the two wrap again and again.
            assert!((0..144_000).all(|_| !pair.look()), "late {late} phase {phase}");
        }
    }
}

#[test]
fn a_pause_of_a_slots_time_and_a_period_is_always_seen() {
    for phase in (0..150_000).step_by(7_500) {
        let mut pair = Pair::new(5_000, phase);
        (0..50).for_each(|_| assert!(!pair.look()));
        // The machine stands still; its clock does not see it.
        let pause = LEASE_SLOT_FRESH + BEACON_PERIOD;
        pair.look += pause;
        pair.stood += pause;
        assert!((0..2).any(|_| pair.look()), "phase {phase}");
    }
}

#[test]
fn a_pause_right_after_the_first_heartbeats_is_seen() {
    for looks in 1..=8 {
        let mut pair = Pair::new(5_000, 75_000);
        (0..looks).for_each(|_| assert!(!pair.look()));
        // What was sent meanwhile waits, and is read one after the other.
        let pause = LEASE_SLOT_FRESH + 10 * BEACON_PERIOD;
        pair.look += pause;
        pair.stood += pause;
        assert!((0..2).any(|_| pair.look()), "after {looks} looks");
    }
}

/// The answer of a start echoes what was sent before the pause: taken alone it would found a lease that is over.
#[test]
fn a_pause_between_the_first_heartbeat_of_a_start_and_its_answer_is_seen() {
    let (me, node, mut peers) = (Uuid([1; 16]), Uuid([2; 16]), Peers::default());
    let beat =
        |seq, sent_at, echoes| Heartbeat { node, boot: 1, seq, sent_at, map_rev: Rev(0), voters_version: 0, echoes };
    let now = 5_000_000;
    assert_eq!(peers.heard(me, 1, now, &beat(1, 1_000_000, vec![])), Heard::Unproven);
    peers.sent(7, now);
    // The peer went on for two seconds, the own clock for a tenth of one.
    let answer = beat(9, 3_000_000, vec![Echo { node: me, boot: 1, seq: 7 }]);
    assert_eq!(peers.heard(me, 1, now + 100_000, &answer), Heard::Paused);
    // Nor is one lost whose only witness has not answered (simulator, seed 943).
    let mut alone = Peers::default();
    assert_eq!(alone.heard(me, 1, now, &beat(1, 1_000_000, vec![])), Heard::Unproven);
    assert_eq!(alone.heard(me, 1, now + 10_000, &beat(2, 3_000_000, vec![])), Heard::Paused);
}
