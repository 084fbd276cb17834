//! The world: every process, the network, the store, virtual time, and the loop over events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use drystone_types::trust::{ticket_key, Key};
use drystone_types::{DriveId, Rev, Rules, Uuid};

use crate::atlas::Atlas;
use crate::checks::Checks;
use crate::client::Client;
use crate::clock::Stops;
use crate::counts::Counts;
use crate::deletions::Order;
use crate::event::{End, Ev, Life, Proc};
use crate::gaps::Gaps;
use crate::history::History;
use crate::links::Clog;
use crate::manager::Manager;
use crate::meta::Meta;
use crate::net::Conn;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::schedule::Entry;
use crate::server::{Drive, Node};

/// Virtual microseconds.
pub type Time = u64;

/// Cluster master key of every simulation.
pub const MASTER: Key = [7; 32];
/// Key epoch.
pub const KEY_EPOCH: u32 = 1;
/// Events of one microsecond before a core counts as spinning.
const SPIN_MAX: u64 = 200_000;
/// Events of a seed, several times what the busiest one needs: more is a storm of messages.
const EVENTS_MAX: u64 = 3_000_000;
/// Lines of trace kept for a failure.
const TRACE_MAX: usize = 400;

/// Why a seed failed: the oracle's name first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the oracle or invariant.
    pub oracle: String,
    /// What it saw.
    pub text: String,
    /// Virtual time.
    pub at: Time,
}

struct Item {
    at: Time,
    order: u64,
    ev: Ev,
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Item) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Item) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A place on the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// A storage node.
    Node(usize),
    /// A client's machine.
    Client(usize),
    /// A manager's machine.
    Manager(usize),
    /// The metadata store.
    Store,
}

/// What a script may do with a frame before it travels.
pub type FrameHook = Box<dyn FnMut(&FrameFacts) -> HookVerdict + Send>;

/// What a script sees of a frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameFacts {
    /// Now.
    pub now: Time,
    /// Asking end.
    pub from: End,
    /// Drive at the answering end.
    pub drive: usize,
    /// Towards the server.
    pub to_server: bool,
    /// Header.
    pub hdr: drystone_types::Header,
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookVerdict {
    /// As usual.
    Pass,
    /// Delivered after this long, outside the order of its connection.
    Late(Time),
    /// Kept until the script lets the held frames go.
    Hold,
    /// As usual, and a copy is kept as with `Hold`: a duplicate for later.
    Keep,
    /// Lost.
    Lose,
}

/// Phase of a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Faults happen.
    Faulty,
    /// Everything is healed; progress is demanded.
    Healing,
}

/// All state of one seed.
pub struct World {
    /// Seed.
    pub seed: u64,
    /// Plan.
    pub plan: Plan,
    /// Rules in force.
    pub rules: Rules,
    /// Now.
    pub now: Time,
    /// Randomness of network, devices and faults.
    pub rng: Rng,
    /// Randomness of the workload alone.
    pub work_rng: Rng,
    order: u64,
    queue: BinaryHeap<Reverse<Item>>,
    /// Store.
    pub meta: Meta,
    /// Highest revision of the store that anybody has seen.
    pub store_seen: Rev,
    /// A backup of the store.
    pub backup: Option<Meta>,
    /// The newest store, while an old one is in its place.
    pub newest: Option<Meta>,
    /// Layers that are being deleted.
    pub orders: Vec<Order>,
    /// Server nodes.
    pub nodes: Vec<Node>,
    /// Drives.
    pub drives: Vec<Drive>,
    /// Clients, of the past too.
    pub clients: Vec<Client>,
    /// Managers.
    pub managers: Vec<Manager>,
    /// Connections ever made.
    pub conns: Vec<Conn>,
    /// Newest connection of (asker, drive).
    pub conn_of: BTreeMap<(End, usize), usize>,
    /// One-way cuts and when they end.
    pub cuts: BTreeMap<(Place, Place), Time>,
    /// Machines whose clocks stood still.
    pub stops: BTreeMap<Place, Stops>,
    /// Links that carry little.
    pub clogs: BTreeMap<(Place, Place), Clog>,
    /// Processes that stand still, and until when.
    pub frozen: BTreeMap<Proc, Time>,
    /// Main oracle.
    pub history: History,
    /// Protocol invariants.
    pub checks: Checks,
    /// Counters.
    pub counts: Counts,
    /// First failure.
    pub failure: Option<Failure>,
    /// Phase.
    pub phase: Phase,
    /// When everything was healed.
    pub healed_at: Time,
    /// Whether a trace is kept.
    pub tracing: bool,
    trace: VecDeque<String>,
    /// Of every line of the trace, those that were dropped included.
    pub trace_hash: u64,
    /// Lines of trace kept.
    pub trace_max: usize,
    /// A script's look at every frame.
    pub hook: Option<FrameHook>,
    /// Frames a script holds.
    pub held: Vec<(usize, bool, drystone_types::Frame)>,
    /// Whether a script moves connections, joins and drops by itself.
    pub scripted: bool,
    /// Whether the managers act in spite of the script.
    pub managed: bool,
    /// How long requests waited.
    pub gaps: Gaps,
    /// Client operations finished.
    pub operations: u64,
    /// Faults to come.
    pub schedule: Vec<Entry>,
    /// Faults injected.
    pub faults_done: u64,
    /// Drive whose scrub after bit flips is not over.
    pub scrubbing: Option<usize>,
    /// Scrubs done since the last bit flips.
    pub scrub_rounds: u32,
    /// What the last comparison of each PG found.
    pub compared: std::collections::BTreeMap<u32, drystone_replica::Compared>,
    /// Drives whose bytes are not all what was written: oracles that rest on them are silent.
    pub flipped: std::collections::BTreeSet<usize>,
    /// What else is spoilt.
    pub atlas: Atlas,
    /// Events handled.
    pub events: u64,
    /// Time of the events handled last, and how many there were of it.
    spin: (Time, u64),
    /// Next random-looking but unique number (nonces, boots).
    pub unique: u64,
}

impl World {
    /// Schedules an event.
    pub fn after(&mut self, delay: Time, ev: Ev) {
        self.at(self.now + delay, ev);
    }
    /// Schedules an event at a time.
    pub fn at(&mut self, at: Time, ev: Ev) {
        self.order += 1;
        self.queue.push(Reverse(Item { at: at.max(self.now), order: self.order, ev }));
    }
    /// A number never given before.
    pub fn fresh(&mut self) -> u64 {
        self.unique += 1;
        self.unique
    }
    /// Notes a failure; the first one counts.
    pub fn fail(&mut self, oracle: &str, text: String) {
        if self.failure.is_none() {
            let failure = Failure { oracle: oracle.to_owned(), text, at: self.now };
            self.trace(|| format!("FAILURE {}: {}", failure.oracle, failure.text));
            self.failure = Some(failure);
        }
    }
    /// Adds a line to the trace; the text is made only when a trace is kept.
    pub fn trace(&mut self, text: impl FnOnce() -> String) {
        if !self.tracing {
            return;
        }
        if self.trace.len() == self.trace_max {
            self.trace.pop_front();
        }
        let line = format!("{:>12.6}  {}", self.now as f64 / 1e6, text());
        for byte in line.bytes() {
            self.trace_hash = (self.trace_hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.trace.push_back(line);
    }
    /// Lines of the trace.
    pub fn trace_lines(&self) -> impl Iterator<Item = &String> {
        self.trace.iter()
    }

    /// An empty world with nothing scheduled.
    pub fn empty(seed: u64, plan: Plan, rules: Rules) -> World {
        let rng = Rng::new(seed).fork(2);
        let mut meta = Meta::new(Uuid([9; 16]), plan.copies as u8, plan.min_insync as u8, placement(&plan));
        meta.rules = rules;
        meta.voters = (0..plan.nodes).map(crate::net::node_uuid).collect();
        World {
            seed,
            rules,
            now: 1_000_000,
            work_rng: Rng::new(seed).fork(3),
            rng,
            order: 0,
            queue: BinaryHeap::new(),
            meta,
            store_seen: Rev(0),
            backup: None,
            newest: None,
            orders: Vec::new(),
            nodes: Vec::new(),
            drives: Vec::new(),
            clients: Vec::new(),
            managers: Vec::new(),
            conns: Vec::new(),
            conn_of: BTreeMap::new(),
            cuts: BTreeMap::new(),
            stops: BTreeMap::new(),
            clogs: BTreeMap::new(),
            frozen: BTreeMap::new(),
            history: History::default(),
            checks: Checks::default(),
            counts: Counts::default(),
            failure: None,
            phase: Phase::Faulty,
            healed_at: Time::MAX,
            tracing: false,
            trace: VecDeque::new(),
            trace_hash: 0,
            trace_max: TRACE_MAX,
            hook: None,
            held: Vec::new(),
            scripted: false,
            managed: false,
            gaps: Gaps::default(),
            operations: 0,
            schedule: Vec::new(),
            faults_done: 0,
            scrubbing: None,
            scrub_rounds: 0,
            compared: Default::default(),
            flipped: std::collections::BTreeSet::new(),
            atlas: Atlas::default(),
            events: 0,
            spin: (0, 0),
            unique: seed << 20 | 1,
            plan,
        }
    }

    /// Key of attach tickets.
    pub fn ticket_key(&self) -> Key {
        ticket_key(&MASTER, KEY_EPOCH)
    }

    /// Handles events until `until` or until `stop` says so; stops at the first failure.
    pub fn run_until(&mut self, until: Time, stop: &mut dyn FnMut(&World) -> bool) {
        while self.failure.is_none() {
            match self.queue.peek() {
                Some(Reverse(item)) if item.at <= until => {}
                _ => {
                    self.now = self.now.max(until);
                    return;
                }
            }
            let Some(Reverse(item)) = self.queue.pop() else { return };
            self.now = self.now.max(item.at);
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.fail("STORM", format!("more than {EVENTS_MAX} events"));
                return;
            }
            if item.at > self.spin.0 {
                self.spin = (item.at, 0);
            }
            self.spin.1 += 1;
            if self.spin.1 > SPIN_MAX {
                self.fail("SPIN", format!("{SPIN_MAX} events without a step of time; the last is {:?}", item.ev));
                return;
            }
            if let Some(thaw) = self.frozen_until(&item.ev) {
                // Keeps the order of events: the older order number goes with it.
                self.queue.push(Reverse(Item { at: thaw, ..item }));
                continue;
            }
            self.handle(item.ev);
            if stop(self) {
                return;
            }
        }
    }

    fn frozen_until(&self, ev: &Ev) -> Option<Time> {
        if self.frozen.is_empty() {
            return None;
        }
        let until = *self.frozen.get(&self.owner(ev))?;
        (until > self.now).then_some(until)
    }

    fn owner(&self, ev: &Ev) -> Proc {
        let server = |d: usize| Proc::Server(self.drives.get(d).map_or(usize::MAX, |d| d.node));
        match ev {
            Ev::Replica(d, ..) | Ev::ReplicaTick(d, ..) | Ev::Flush(d, _) => server(*d),
            Ev::Beacon(n, ..) | Ev::BeaconTick(n, ..) => Proc::Beacon(*n),
            Ev::AskSilent(_, n) => Proc::Beacon(*n),
            Ev::Sequencer(c, ..) | Ev::SequencerTick(c, ..) => Proc::Client(*c),
            Ev::Arrive(conn, true, _) | Ev::Gone(conn, true) => {
                server(self.conns.get(*conn).map_or(usize::MAX, |c| c.drive))
            }
            Ev::Arrive(conn, false, _) | Ev::Gone(conn, false) | Ev::Opened(conn, _) => {
                self.conns.get(*conn).map_or(Proc::Nobody, |c| self.asker(c.from))
            }
            Ev::Redial(end, _) => self.asker(*end),
            Ev::Reply(p, ..) => *p,
            Ev::ManagerTick(m) | Ev::News(m, _) => Proc::Manager(*m),
            Ev::MapAgain(c, _) | Ev::CallAgain(c, ..) => Proc::Client(*c),
            _ => Proc::Nobody,
        }
    }

    fn asker(&self, end: End) -> Proc {
        match end {
            End::Client(c) => Proc::Client(c),
            End::Drive(d) => Proc::Server(self.drives.get(d).map_or(usize::MAX, |d| d.node)),
        }
    }

    fn handle(&mut self, ev: Ev) {
        match ev {
            Ev::Replica(d, life, event) => self.replica_event(d, life, *event),
            Ev::ReplicaTick(d, life, at) => self.replica_tick(d, life, at),
            Ev::Flush(d, life) => self.replica_flush(d, life),
            Ev::DevDone(d, life, id) => self.device_done(d, life, id),
            Ev::Beacon(n, life, event) => self.beacon_event(n, life, *event),
            Ev::BeaconTick(n, life) => self.beacon_tick(n, life),
            Ev::AskSilent(m, n) => self.answer_silent(m, n),
            Ev::Sequencer(c, life, event) => self.sequencer_event(c, life, *event),
            Ev::SequencerTick(c, life, at) => self.sequencer_tick(c, life, at),
            Ev::Arrive(conn, to_server, frame) => self.arrive(conn, to_server, *frame),
            Ev::Knock(conn) => self.knock(conn),
            Ev::Opened(conn, how) => self.opened(conn, how),
            Ev::Gone(conn, server) => self.gone(conn, server),
            Ev::Redial(end, drive) => self.redial(end, drive),
            Ev::Call(from, life, request) => self.call_arrives(from, life, request),
            Ev::Reply(to, life, answer) => self.reply_arrives(to, life, answer),
            Ev::ManagerTick(m) => self.manager_tick(m),
            Ev::News(m, news) => self.manager_news(m, news),
            Ev::StartServer(n) => self.start_server(n),
            Ev::Stop(n, life, power) => self.stop_for_a_while(n, life, power),
            Ev::NewHead(vol) => self.new_head(vol),
            Ev::StartClient(c) => self.start_client(c),
            Ev::Work(c, life) => self.work(c, life),
            Ev::Fault(i) => self.fault(i),
            Ev::MapAgain(c, life) => self.map_again(c, life),
            Ev::CallAgain(c, life, serial) => self.call_again(c, life, serial),
            Ev::Scrub(d, life) => self.scrub(d, life),
            Ev::Spoilt(d) => self.spoilt_goes_on(d),
            Ev::OtherMedium(d, life) => self.other_medium(d, life),
            Ev::NewestStore => self.newest_store(),
            Ev::Orders => self.give_orders(),
            Ev::Recreate(id) => self.recreate(id),
            Ev::Compare(turn) => self.compare_next(turn),
        }
    }

    /// Life of a process; events of another one are void.
    pub fn life_of(&self, proc: Proc) -> Life {
        match proc {
            Proc::Server(n) => self.nodes.get(n).map_or(0, |n| n.life),
            Proc::Beacon(n) => self.nodes.get(n).map_or(0, |n| n.beacon_life),
            Proc::Client(c) => self.clients.get(c).map_or(0, |c| c.life),
            Proc::Manager(_) | Proc::Nobody => 0,
        }
    }
}

/// Drive ids are 1, 2, 3 … in the order of nodes.
pub fn drive_id(index: usize) -> DriveId {
    DriveId(index as u32 + 1)
}

/// Each PG on drives of distinct nodes, spread evenly.
fn placement(plan: &Plan) -> Vec<Vec<DriveId>> {
    let on = |node: usize, nth: usize| drive_id(node % plan.nodes * plan.drives_per_node + nth % plan.drives_per_node);
    (0..plan.pgs as usize)
        .map(|pg| (0..plan.copies.min(plan.nodes)).map(|k| on(pg + k, pg / 2 + k)).collect())
        .collect()
}
