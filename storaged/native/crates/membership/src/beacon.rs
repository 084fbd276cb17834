//! The beacon of one node: heartbeats, quorum, read leases and silence votes (§4.5).
//!
//! A lease runs for 1.5 s from the *send* time of the newest own heartbeat that a majority of the
//! voters echoed, so that it is over everywhere 1.5 s after a majority stopped echoing. All times are
//! readings of the local monotonic clock.

use drystone_types::consts::{Micros, BEACON_PERIOD, BEACON_SILENCE, LEASE_SLOT_FRESH, READ_LEASE};
use drystone_types::trust::Key;
use drystone_types::{Rev, Rule, Rules, Uuid};

use crate::heartbeat::{Heartbeat, HeartbeatError};
use crate::lease::Slots;
use crate::peers::{Heard, Peers};
use crate::policy::LEASE_WAIT;
use crate::votes::{Promises, Suspect};

/// Fixed settings.
#[derive(Clone, Debug)]
pub struct BeaconConfig {
    /// This node.
    pub node: Uuid,
    /// Random number of this start.
    pub boot: u64,
    /// Cluster master key and its epoch.
    pub master: Key,
    /// Key epoch.
    pub key_epoch: u32,
    /// Answering threads, one lease slot each.
    pub slots: usize,
    /// Rules in force; all but in mutation tests.
    pub rules: Rules,
}

/// What happens to a beacon.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// A datagram arrived.
    Datagram(Vec<u8>),
    /// Counters of the lease page.
    Slots(Vec<u64>),
    /// Revision of the server's map; `read_at` is when a linearizable ReadMap that gave it *began*,
    /// `None` for a pushed map.
    Map {
        /// Revision.
        rev: Rev,
        /// Start of the read.
        read_at: Option<Micros>,
    },
    /// All `/suspect` keys at a revision.
    Suspects {
        /// Revision of the read.
        as_of: Rev,
        /// Keys.
        keys: Vec<Suspect>,
    },
    /// Nodes to heartbeat, and which of them vote.
    Voters {
        /// Version of the list.
        version: u64,
        /// Expected voters.
        voters: Vec<Uuid>,
        /// Every node that has a beacon.
        nodes: Vec<Uuid>,
    },
    /// The server process is another one, or there is none: what its predecessor said is void.
    Server {
        /// Counters of the lease page at this moment; only what moves from here on is alive.
        counters: Vec<u64>,
    },
    /// REVOKE: the manager suspects this node's server and asks for the proof that it serves no reads.
    Hold {
        /// Round of the suspicion.
        round: Rev,
        /// The server process is known to be gone.
        gone: bool,
    },
    /// The manager asks for a vote of silence.
    AskVote(Suspect),
    /// A suspicion is over.
    Release(Suspect),
}

/// What a beacon wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send a datagram.
    Send {
        /// Node.
        to: Uuid,
        /// Bytes.
        bytes: Vec<u8>,
    },
    /// New content of the lease page: until when each slot may answer; 0 = not at all.
    Lease(Vec<Micros>),
    /// A lease waits for a ReadMap begun now or later.
    NeedMap,
    /// Answer to `Hold`. Granted: the lease page is zero, and stays so until the suspicion ends. Carried out after the
    /// preceding `Lease`.
    Held {
        /// What was asked.
        round: Rev,
        /// Whether the server stood still.
        granted: bool,
    },
    /// Answer to `AskVote`.
    Vote {
        /// What was asked.
        suspect: Suspect,
        /// Whether the node is silent here, and promised not to be echoed.
        granted: bool,
    },
    /// This node entered or left the quorum.
    Quorum(bool),
}

/// Datagrams that a beacon refused since its start, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refused {
    /// Not a heartbeat.
    pub malformed: u64,
    /// Made without the sender's key: another cluster, an old key, or forged.
    pub bad_mac: u64,
    /// In this node's own name.
    pub own_name: u64,
    /// Not newer than the newest of its boot: late, or repeated.
    pub stale: u64,
    /// Of an earlier boot of the sender: repeated.
    pub earlier_boot: u64,
    /// Of a boot that answers none of this one's heartbeats: repeated, or its sender does not hear this node.
    pub unanswered: u64,
    /// Of one node more than a cluster has.
    pub too_many: u64,
}

impl Refused {
    /// Reasons and counts.
    pub fn list(&self) -> [(&'static str, u64); 7] {
        [
            ("malformed", self.malformed),
            ("bad_mac", self.bad_mac),
            ("own_name", self.own_name),
            ("stale", self.stale),
            ("earlier_boot", self.earlier_boot),
            ("unanswered", self.unanswered),
            ("too_many", self.too_many),
        ]
    }
}

/// The core.
pub struct BeaconCore {
    config: BeaconConfig,
    started_at: Micros,
    /// When the server process was first seen.
    server_at: Micros,
    stepped_at: Micros,
    seq: u64,
    beat_at: Micros,
    map_wanted_at: Option<Micros>,
    map_rev: Rev,
    map_read_at: Option<Micros>,
    /// Until when the echoes of a majority carry a lease, and since when they did without a gap.
    echoed: Option<(Micros, Micros)>,
    voters_version: u64,
    voters: Vec<Uuid>,
    nodes: Vec<Uuid>,
    peers: Peers,
    promises: Promises,
    slots: Slots,
    page: Vec<Micros>,
    quorum: bool,
    refused: Refused,
}

impl BeaconCore {
    /// A beacon that knows nobody yet.
    pub fn new(config: BeaconConfig, now: Micros) -> BeaconCore {
        let slots = Slots::new(config.slots, now, config.rules);
        BeaconCore {
            started_at: now,
            server_at: now,
            stepped_at: now,
            seq: 0,
            beat_at: now,
            map_wanted_at: None,
            map_rev: Rev(0),
            map_read_at: None,
            echoed: None,
            voters_version: 0,
            voters: Vec::new(),
            nodes: Vec::new(),
            peers: Peers::default(),
            promises: Promises::default(),
            page: slots.page(),
            slots,
            quorum: false,
            refused: Refused::default(),
            config,
        }
    }

    /// Takes an event. A heartbeat that is due leaves with any event but a datagram: what arrived together is
    /// read first, so that all of it is echoed now and not a period later; `Tick` follows it.
    pub fn step(&mut self, now: Micros, event: Event, out: &mut Vec<Action>) {
        self.watch_clock(now);
        self.slots.expire(now);
        self.echoed = self.echoed.filter(|(until, _)| *until > now);
        let reading = matches!(event, Event::Datagram(_));
        match event {
            Event::Tick => {}
            Event::Datagram(bytes) => self.datagram(now, &bytes),
            Event::Slots(counters) => self.slots.counters(now, &counters),
            Event::Map { rev, read_at } => self.map(rev, read_at),
            Event::Suspects { as_of, keys } => self.suspects(now, as_of, &keys),
            Event::Voters { version, voters, nodes } => self.set_voters(version, voters, nodes),
            Event::Server { counters } => self.server(now, &counters),
            Event::Hold { round, gone } => self.hold(now, round, gone, out),
            Event::AskVote(suspect) => self.vote(now, suspect, out),
            Event::Release(suspect) => self.release(now, suspect),
        }
        if now >= self.beat_at && !reading {
            self.beat(now, out);
        }
        self.renew(now);
        self.report(now, out);
    }

    /// When `Tick` is due.
    pub fn next_deadline(&self) -> Option<Micros> {
        let lapse = self.page.iter().copied().filter(|until| *until != 0).min();
        Some(lapse.map_or(self.beat_at, |l| l.min(self.beat_at)))
    }

    /// Nodes that were not heard for the silence limit: evidence for the manager.
    pub fn silent(&self, now: Micros) -> Vec<Uuid> {
        self.nodes.iter().filter(|n| **n != self.config.node && self.is_silent(now, n)).copied().collect()
    }

    /// Whether this node hears more than half of the expected voters.
    pub fn in_quorum(&self) -> bool {
        self.quorum
    }

    /// Whether no answering thread of the server has moved for as long as silence takes to be believed.
    pub fn server_stands_still(&self, now: Micros) -> bool {
        let since = self.slots.moved_at().unwrap_or(0).max(self.server_at);
        now.saturating_sub(since) >= BEACON_SILENCE
    }

    /// Lowest voters version shown by this node and every node it hears: the next change of the
    /// voters waits for it.
    pub fn voters_version_seen(&self, now: Micros) -> u64 {
        let heard = self.peers.all().filter(|(_, p)| now.saturating_sub(p.heard_at) < BEACON_SILENCE);
        heard.map(|(_, p)| p.voters_version).min().map_or(self.voters_version, |v| v.min(self.voters_version))
    }

    fn on(&self, rule: Rule) -> bool {
        self.config.rules.on(rule)
    }

    /// A step that comes far too late shows that the process or the machine stood still.
    fn watch_clock(&mut self, now: Micros) {
        if now.saturating_sub(self.stepped_at) > BEACON_PERIOD + LEASE_SLOT_FRESH && self.on(Rule::PauseVoids) {
            self.void(now);
        }
        self.stepped_at = now;
    }

    fn void(&mut self, now: Micros) {
        self.peers.void_basis();
        self.slots.void(now);
        self.echoed = None;
    }

    fn datagram(&mut self, now: Micros, bytes: &[u8]) {
        let (epoch, master) = (self.config.key_epoch, self.config.master);
        let beat = match Heartbeat::open(bytes, |e| (e == epoch).then_some(master)) {
            Ok(beat) => beat,
            Err(HeartbeatError::Codec(_)) => return self.refused.malformed += 1,
            Err(HeartbeatError::BadMac) => return self.refused.bad_mac += 1,
        };
        if beat.node == self.config.node {
            return self.refused.own_name += 1;
        }
        match self.peers.heard(self.config.node, self.config.boot, now, &beat) {
            Heard::Fresh | Heard::Unproven => {}
            Heard::Unanswered => self.refused.unanswered += 1,
            Heard::Paused if self.on(Rule::PauseVoids) => self.void(now),
            Heard::Paused => {}
            Heard::Stale => self.refused.stale += 1,
            Heard::EarlierBoot => self.refused.earlier_boot += 1,
            Heard::TooMany => self.refused.too_many += 1,
        }
    }

    /// Datagrams that were refused.
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Time that the shortest lease of the server still has; `None` = there is none.
    pub fn lease_margin(&self, now: Micros) -> Option<Micros> {
        let shortest = self.page.iter().copied().filter(|until| *until != 0).min()?;
        Some(shortest.saturating_sub(now))
    }

    fn map(&mut self, rev: Rev, read_at: Option<Micros>) {
        self.map_rev = self.map_rev.max(rev);
        self.map_read_at = self.map_read_at.max(read_at);
    }

    fn set_voters(&mut self, version: u64, voters: Vec<Uuid>, nodes: Vec<Uuid>) {
        if version >= self.voters_version {
            (self.voters_version, self.voters, self.nodes) = (version, voters, nodes);
        }
    }

    /// A restarted server must take no lease from what its predecessor had read, nor pass for as new as that one.
    fn server(&mut self, now: Micros, counters: &[u64]) {
        (self.map_rev, self.map_read_at, self.server_at) = (Rev(0), None, now);
        self.slots.restart(now, counters);
    }

    /// Until the suspicion ends this node's server gets no lease: the same promise that voters give, and ended by the
    /// same key, because the map's revision may move before the drop does (ADR 0015).
    fn hold(&mut self, now: Micros, round: Rev, gone: bool, out: &mut Vec<Action>) {
        // A beacon that has just started cannot speak for a page that its predecessor may have lent.
        let settled = now.saturating_sub(self.started_at) >= LEASE_WAIT;
        let granted = settled && (gone || self.server_stands_still(now));
        if granted {
            self.promises.promise(Suspect { node: self.config.node, round });
            self.slots.void(now);
        }
        self.publish(out);
        out.push(Action::Held { round, granted });
    }

    fn suspects(&mut self, now: Micros, as_of: Rev, keys: &[Suspect]) {
        let held = self.is_held();
        self.promises.suspects(as_of, keys);
        self.after_hold(now, held);
    }

    fn release(&mut self, now: Micros, suspect: Suspect) {
        let held = self.is_held();
        self.promises.release(suspect);
        self.after_hold(now, held);
    }

    /// Whether this node's own server is suspected, or may be: nobody has said yet whether it is.
    fn is_held(&self) -> bool {
        self.promises.forbids(&self.config.node)
    }

    /// Only a map that is read after the end of the suspicion shows what came of it.
    fn after_hold(&mut self, now: Micros, held: bool) {
        if held && !self.is_held() {
            self.slots.void(now);
        }
    }

    fn vote(&mut self, now: Micros, suspect: Suspect, out: &mut Vec<Action>) {
        let granted = suspect.node != self.config.node && self.is_silent(now, &suspect.node);
        if granted && self.on(Rule::VotePromise) {
            self.promises.promise(suspect);
        }
        out.push(Action::Vote { suspect, granted });
    }

    fn is_silent(&self, now: Micros, node: &Uuid) -> bool {
        let heard_at = self.peers.get(node).map_or(self.started_at, |p| p.heard_at);
        now.saturating_sub(heard_at) >= BEACON_SILENCE
    }

    fn beat(&mut self, now: Micros, out: &mut Vec<Action>) {
        self.seq += 1;
        self.beat_at = now + BEACON_PERIOD;
        self.peers.sent(self.seq, now);
        let beat = Heartbeat {
            node: self.config.node,
            boot: self.config.boot,
            seq: self.seq,
            sent_at: now,
            map_rev: self.map_rev,
            voters_version: self.voters_version,
            echoes: self.peers.echoes(now, |node| self.promises.forbids(node)),
        };
        let bytes = beat.seal(&self.config.master, self.config.key_epoch);
        for to in self.nodes.iter().filter(|n| **n != self.config.node) {
            out.push(Action::Send { to: *to, bytes: bytes.clone() });
        }
    }

    /// Send time of the newest own heartbeat that a majority of the voters is known to have heard.
    fn majority_basis(&self, now: Micros) -> Option<Micros> {
        let basis = |node: &Uuid| match *node == self.config.node {
            true => Some(now),
            false => self.peers.get(node).and_then(|p| p.basis),
        };
        let mut bases: Vec<Micros> = self.voters.iter().filter_map(basis).collect();
        bases.sort_unstable_by(|a, b| b.cmp(a));
        bases.get(self.voters.len() / 2).copied()
    }

    fn renew(&mut self, now: Micros) {
        let until = self.majority_basis(now).map(|basis| basis + READ_LEASE).filter(|until| *until > now);
        let Some(until) = until else { return };
        let since = self.echoed.map_or(now, |(_, since)| since);
        self.echoed = Some((until, since));
        let newest = self.map_rev >= self.peers.highest_map() || !self.on(Rule::EchoMap);
        if newest && !(self.is_held() && self.on(Rule::Hold)) {
            self.slots.extend(now, until, since, self.map_read_at);
        }
    }

    fn hears_majority(&self, now: Micros) -> bool {
        let heard = self.voters.iter().filter(|n| **n == self.config.node || !self.is_silent(now, n));
        heard.count() > self.voters.len() / 2
    }

    fn report(&mut self, now: Micros, out: &mut Vec<Action>) {
        self.publish(out);
        // At most one ReadMap asked per heartbeat period: the answer takes a round trip.
        let asked_lately = self.map_wanted_at.is_some_and(|at| now.saturating_sub(at) < BEACON_PERIOD);
        let behind = self.map_rev < self.peers.highest_map();
        let lapsed = self.echoed.is_some_and(|(_, since)| self.slots.wants_map(since, self.map_read_at));
        if (behind || lapsed) && !asked_lately {
            self.map_wanted_at = Some(now);
            out.push(Action::NeedMap);
        }
        let quorum = self.hears_majority(now);
        if quorum != self.quorum {
            self.quorum = quorum;
            out.push(Action::Quorum(quorum));
        }
    }

    fn publish(&mut self, out: &mut Vec<Action>) {
        let page = self.slots.page();
        if page != self.page {
            self.page.clone_from(&page);
            out.push(Action::Lease(page));
        }
    }
}
