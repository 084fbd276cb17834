//! What a beacon knows of the others: when they were heard, what they echoed, and whether their
//! clocks show that this node was paused.

use std::collections::{BTreeMap, VecDeque};

use drystone_types::consts::{Micros, BEACON_PERIOD, BEACON_SILENCE, LEASE_SLOT_FRESH, READ_LEASE};
use drystone_types::{Rev, Uuid};

use crate::heartbeat::{Echo, Heartbeat};

/// Own heartbeats remembered: one whose lease would be over is of no use in an echo.
const SENT_MAX: usize = (READ_LEASE / BEACON_PERIOD) as usize + 2;
/// Own time over which the smallest clock offset is taken: several heartbeats, and so short that two
/// clocks that drift 1 % each differ by far less than what counts as a pause.
const OFFSET_WINDOW: Micros = 1_000_000;
/// How late a thread's timer may be before that looks like anything: a busy machine is not a pause.
const LATENESS: Micros = 50_000;
/// How far the own clock may fall behind a peer's before it counts as a pause. A heartbeat may wait up to a period, and
/// the lateness of a timer, to be read; that makes its offset larger. So offsets differ by as much without a pause, and
/// one longer than this and a period is never missed: less than what a step of the own clock may be late (`watch_clock`).
const PAUSE_SHOWN: Micros = BEACON_PERIOD + LATENESS;
const _: () = assert!(PAUSE_SHOWN + BEACON_PERIOD <= BEACON_PERIOD + LEASE_SLOT_FRESH);
/// Boots remembered of each peer: more than a beacon has in a month of crashes. A heartbeat of one of them was recorded.
const BOOTS_MAX: usize = 32;
/// First heartbeats of a boot that answer nothing, before they are counted as repeated ones: twice what it takes until
/// both sides know whom to echo, and a few that are lost.
const UNPROVEN_MAX: u32 = 8;
/// Most peers: the size of a large cluster four times over; more senders than that are not a cluster.
const PEERS_MAX: usize = 256;

/// One peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// When it was last heard.
    pub heard_at: Micros,
    /// Its boot.
    pub boot: u64,
    /// Its boots before that one, oldest first: what they said is over.
    retired: VecDeque<u64>,
    /// Its newest sequence number.
    pub seq: u64,
    /// Its server's map revision.
    pub map_rev: Rev,
    /// Its voters version.
    pub voters_version: u64,
    /// Send time of the newest own heartbeat it echoed.
    pub basis: Option<Micros>,
    offsets: Offsets,
}

/// A boot of a peer that did not answer this one's heartbeats yet. Whoever recorded a heartbeat can repeat it to a
/// beacon that has restarted and remembers nothing; only who lives can echo what this boot has just sent.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    boot: u64,
    seq: u64,
    heard_at: Micros,
    times: u32,
    /// A start that does not answer yet shows a pause like any other: it may be the only witness, and what it answers
    /// with may echo what was sent before the pause.
    offsets: Offsets,
}

/// Smallest (own clock − the peer's clock), of the window before and of the running one. The windows
/// are measured in own time: when the own clock stands still, the older one does not move with the pause.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    settled: Option<i128>,
    running: i128,
    /// Of the first window.
    largest: i128,
    since: Micros,
}

/// What a heartbeat showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nothing: not newer than what is known.
    Stale,
    /// Nothing: of an earlier boot of the peer, so somebody repeats what he recorded then.
    EarlierBoot,
    /// Nothing yet: the first of a boot, which has to show that it hears this one. It is echoed, so that it can.
    Unproven,
    /// Nothing: a boot that was echoed for a while and does not answer: somebody repeats what he recorded.
    Unanswered,
    /// Nothing: one peer too many.
    TooMany,
    /// New.
    Fresh,
    /// New, and it shows that this node stood still while the peer went on.
    Paused,
}

/// All peers and the own heartbeats they can echo.
#[derive(Debug, Default)]
pub struct Peers {
    table: BTreeMap<Uuid, Peer>,
    candidates: BTreeMap<Uuid, Candidate>,
    sent: VecDeque<(u64, Micros)>,
}

impl Peers {
    /// Notes an own heartbeat.
    pub fn sent(&mut self, seq: u64, at: Micros) {
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((seq, at));
    }

    /// Takes a verified heartbeat.
    pub fn heard(&mut self, me: Uuid, boot: u64, now: Micros, beat: &Heartbeat) -> Heard {
        if !self.table.contains_key(&beat.node) && self.table.len() >= PEERS_MAX {
            return Heard::TooMany;
        }
        let echoed = beat.echoes.iter().find(|e| e.node == me && e.boot == boot).map(|e| e.seq);
        let basis = echoed.and_then(|seq| self.sent.iter().find(|(s, _)| *s == seq)).map(|(_, at)| *at);
        let known = self.table.get(&beat.node);
        if known.is_some_and(|p| p.boot == beat.boot && beat.seq <= p.seq) {
            return Heard::Stale;
        }
        if known.is_some_and(|p| p.boot != beat.boot && p.retired.contains(&beat.boot)) {
            return Heard::EarlierBoot;
        }
        if basis.is_none() && known.is_none_or(|p| p.boot != beat.boot) {
            return self.first_of_boot(now, beat);
        }
        let candidate = self.candidates.remove(&beat.node).filter(|c| c.boot == beat.boot);
        let offset = i128::from(now) - i128::from(beat.sent_at);
        let peer = self.table.entry(beat.node).or_insert_with(|| Peer::new(now, beat.boot, offset));
        if peer.boot != beat.boot {
            peer.retire();
            peer.offsets = Offsets::new(offset, now);
        }
        if let Some(candidate) = &candidate {
            peer.offsets = candidate.offsets;
        }
        (peer.heard_at, peer.boot, peer.seq) = (now, beat.boot, beat.seq);
        peer.map_rev = peer.map_rev.max(beat.map_rev);
        peer.voters_version = beat.voters_version;
        peer.basis = peer.basis.max(basis);
        if peer.offsets.paused(offset, now) {
            Heard::Paused
        } else {
            Heard::Fresh
        }
    }

    /// The boot that is known stays what it is: a repeated heartbeat must not take the place of a peer that lives.
    fn first_of_boot(&mut self, now: Micros, beat: &Heartbeat) -> Heard {
        if !self.candidates.contains_key(&beat.node) && self.candidates.len() >= PEERS_MAX {
            return Heard::TooMany;
        }
        let offset = i128::from(now) - i128::from(beat.sent_at);
        let (boot, seq, offsets) = (beat.boot, beat.seq, Offsets::new(offset, now));
        let new = Candidate { boot, seq, heard_at: now, times: 0, offsets };
        let candidate = self.candidates.entry(beat.node).or_insert(new);
        if candidate.boot != boot {
            *candidate = new;
        } else if candidate.times > 0 && seq <= candidate.seq {
            return Heard::Stale;
        }
        (candidate.seq, candidate.heard_at) = (seq, now);
        candidate.times = candidate.times.saturating_add(1);
        // Should somebody repeat a record, a lease is taken away for nothing; it comes back with the next echo.
        if candidate.offsets.paused(offset, now) {
            Heard::Paused
        } else if candidate.times > UNPROVEN_MAX {
            Heard::Unanswered
        } else {
            Heard::Unproven
        }
    }

    /// What the next heartbeat echoes: every peer heard within the silence limit that is not in `promised`, and boots
    /// that have yet to show that they hear this one.
    pub fn echoes(&self, now: Micros, promised: impl Fn(&Uuid) -> bool) -> Vec<Echo> {
        let fresh = |heard_at: Micros| now.saturating_sub(heard_at) < BEACON_SILENCE;
        let peers = self.table.iter().filter(|(_, p)| fresh(p.heard_at)).map(|(n, p)| (*n, p.boot, p.seq));
        let others = self.candidates.iter().filter(|(_, c)| fresh(c.heard_at)).map(|(n, c)| (*n, c.boot, c.seq));
        let all = peers.chain(others).filter(|(node, ..)| !promised(node));
        all.map(|(node, boot, seq)| Echo { node, boot, seq }).collect()
    }

    /// One peer.
    pub fn get(&self, node: &Uuid) -> Option<&Peer> {
        self.table.get(node)
    }

    /// Every peer, by id.
    pub fn all(&self) -> impl Iterator<Item = (&Uuid, &Peer)> {
        self.table.iter()
    }

    /// Highest map revision any peer's server has shown.
    pub fn highest_map(&self) -> Rev {
        self.table.values().map(|p| p.map_rev).max().unwrap_or_default()
    }

    /// Forgets what echoes proved: after a pause nothing sent before it counts.
    pub fn void_basis(&mut self) {
        self.sent.clear();
        for peer in self.table.values_mut() {
            peer.basis = None;
        }
    }
}

impl Peer {
    fn new(now: Micros, boot: u64, offset: i128) -> Peer {
        Peer {
            heard_at: now,
            boot,
            retired: VecDeque::new(),
            seq: 0,
            map_rev: Rev(0),
            voters_version: 0,
            basis: None,
            offsets: Offsets::new(offset, now),
        }
    }

    fn retire(&mut self) {
        if self.retired.len() == BOOTS_MAX {
            self.retired.pop_front();
        }
        self.retired.push_back(self.boot);
    }
}

impl Offsets {
    fn new(offset: i128, now: Micros) -> Offsets {
        Offsets { settled: None, running: offset, largest: offset, since: now }
    }

    /// The own clock fell behind the peer's by more than a slot may stand still: this node was paused.
    /// The smallest offset counts, because a late heartbeat makes offsets larger, never smaller.
    fn paused(&mut self, offset: i128, now: Micros) -> bool {
        // Before the first window is over its largest: heartbeats that waited for a guest to go on are read one after
        // the other, and the smallest would follow them down. A lease may be taken within that window, too.
        self.largest = self.largest.max(offset);
        if offset + i128::from(PAUSE_SHOWN) < self.settled.unwrap_or(self.largest) {
            *self = Offsets::new(offset, now);
            return true;
        }
        if now.saturating_sub(self.since) >= OFFSET_WINDOW {
            *self = Offsets { settled: Some(self.running), running: offset, since: now, ..*self };
        } else {
            self.running = self.running.min(offset);
        }
        false
    }
}
