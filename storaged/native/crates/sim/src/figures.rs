//! Figures in virtual time: one fault in a quiet world under load, many times, and how long a request waited.

use std::fmt;

use drystone_types::{Rules, VolumeId};

use crate::event::Proc;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::runner::build;
use crate::world::{Place, Time, World};

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    /// SIGKILL of a server.
    Kill,
    /// A node loses its power.
    PowerCut,
    /// SIGSTOP of a server, its beacon lives.
    StopServer,
    /// SIGSTOP of a server and its beacon.
    StopBoth,
    /// A node is cut off without a word.
    Cut,
    /// The same, and the leading manager with it.
    CutWithLeader,
    /// The leading manager stands still.
    LeaderLost,
    /// Nobody reaches the metadata store for ten seconds.
    StoreLost,
    /// A device answers nothing any more, its server lives.
    DriveHangs,
    /// Another client takes the volume, the old one goes on writing.
    ForcedDetach,
}

/// All of them.
pub const BREAKS: [Break; 10] = [
    Break::Kill,
    Break::PowerCut,
    Break::StopServer,
    Break::StopBoth,
    Break::Cut,
    Break::CutWithLeader,
    Break::LeaderLost,
    Break::StoreLost,
    Break::DriveHangs,
    Break::ForcedDetach,
];

const SECOND: Time = 1_000_000;
/// What counts as no gap at all: a few hedged or resent requests.
const NOTHING: Time = SECOND / 4;
/// How long a run is watched after its fault: twice the worst bar, and the store's ten seconds.
const WATCHED: Time = 12 * SECOND;
/// Everything has started by then.
const STARTED: Time = 30 * SECOND;
/// Longer than any run.
const FOR_EVER: Time = 1_000 * SECOND;

impl Break {
    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Break::Kill => "kill of a server",
            Break::PowerCut => "power cut of a node",
            Break::StopServer => "stop of a server",
            Break::StopBoth => "stop of server and beacon",
            Break::Cut => "silent cut of a node",
            Break::CutWithLeader => "cut, leader with it",
            Break::LeaderLost => "leader lost",
            Break::StoreLost => "store lost for 10 s",
            Break::DriveHangs => "drive hangs",
            Break::ForcedDetach => "forced detach",
        }
    }
    /// Bars of the median and of the worst.
    pub fn bars(self) -> (Option<Time>, Option<Time>) {
        match self {
            Break::Kill => (None, Some(SECOND)),
            Break::PowerCut | Break::StopServer | Break::StopBoth | Break::Cut => (Some(3 * SECOND), Some(5 * SECOND)),
            // The next leader comes first.
            Break::CutWithLeader | Break::DriveHangs => (None, Some(5 * SECOND)),
            Break::LeaderLost | Break::StoreLost => (None, Some(NOTHING)),
            // Its figure is what the old writer reached.
            Break::ForcedDetach => (None, None),
        }
    }
}

/// Waits of many runs.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was broken.
    pub what: Break,
    /// Waits, ascending.
    pub waits: Vec<Time>,
    /// Requests that a stale writer sent and that were refused.
    pub stale: u64,
    /// What went wrong beside the waits.
    pub failures: Vec<String>,
}

impl Figure {
    /// Nearest rank.
    pub fn percentile(&self, per_cent: usize) -> Time {
        let rank = (self.waits.len() * per_cent).div_ceil(100).max(1);
        self.waits.get(rank - 1).copied().unwrap_or(0)
    }
    /// Whether no bar was missed.
    pub fn met(&self) -> bool {
        let (p50, worst) = self.what.bars();
        let stale = self.what != Break::ForcedDetach || self.stale > 0;
        p50.is_none_or(|bar| self.percentile(50) <= bar)
            && worst.is_none_or(|bar| self.percentile(100) <= bar)
            && stale
            && self.failures.is_empty()
            && !self.waits.is_empty()
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |t: Time| t as f64 / 1e6;
        let of = |bar: Option<Time>| bar.map_or("-".to_owned(), |t| format!("{:.2}", seconds(t)));
        let [p50, p99, worst] = [50, 99, 100].map(|p| seconds(self.percentile(p)));
        let (bar50, bar) = self.what.bars();
        let name = self.what.name();
        write!(f, "{name:<28} {:>4} {p50:>8.3} {p99:>8.3} {worst:>8.3}", self.waits.len())?;
        write!(f, " {:>6} {:>6}", of(bar50), of(bar))?;
        if self.what == Break::ForcedDetach {
            write!(f, "  {} stale requests, 100 % refused", self.stale)?;
        }
        write!(f, "  {}", if self.met() { "met" } else { "MISSED" })
    }
}

/// Head of the table.
pub const HEAD: &str = "longest wait of a request, s     n      p50      p99    worst  bar50    bar";

/// Measures one fault many times.
pub fn measure(what: Break, runs: u64, from: u64) -> Figure {
    let mut figure = Figure { what, waits: Vec::new(), stale: 0, failures: Vec::new() };
    for seed in from..from + runs {
        let (wait, stale, failure) = one(what, seed);
        figure.waits.push(wait);
        figure.stale += stale;
        figure.failures.extend(failure.map(|why| format!("{} seed {seed}: {why}", what.name())));
    }
    figure.waits.sort_unstable();
    figure
}

/// Three to five nodes, one to two drives each, a volume under steady load, a network without tricks.
fn plan(rng: &mut Rng) -> Plan {
    Plan {
        nodes: rng.range(3, 5) as usize,
        drives_per_node: rng.range(1, 2) as usize,
        min_insync: 2,
        pgs: 4,
        chunks: 4,
        hot_blocks: 16,
        depth: 4,
        think: 10_000,
        beacon_process: true,
        ..Plan::quiet()
    }
}

/// One run: longest wait, stale requests refused, what failed.
fn one(what: Break, seed: u64) -> (Time, u64, Option<String>) {
    let mut rng = Rng::new(seed).fork(6);
    let mut w = build(seed, plan(&mut rng), Rules::ALL);
    let ready = |w: &World| w.clients[0].was_active && w.operations > 50 && w.meta.leader.is_some() && all_leased(w);
    w.run_until(STARTED, &mut |w| ready(w));
    if !ready(&w) {
        return (0, 0, Some("the world did not start".to_owned()));
    }
    let moment = w.now + SECOND + rng.below(2 * SECOND);
    w.run_until(moment, &mut |_| false);
    w.gaps.restart();
    do_break(&mut w, what, &mut rng);
    let end = w.now + WATCHED;
    w.run_until(end, &mut |_| false);
    let owner = w.owner_of(VolumeId(1)).unwrap_or(0);
    let wait = w.gaps.worst(owner, w.now);
    let stale = w.counts.get("zombie.write_refused") + w.counts.get("zombie.read_refused");
    let failure = w.failure.as_ref().map(|f| format!("oracle {}: {}", f.oracle, f.text));
    (wait, stale, failure)
}

fn all_leased(w: &World) -> bool {
    w.nodes.iter().all(|n| !n.page.is_empty() && n.page.iter().all(|until| *until > w.now))
}

fn do_break(w: &mut World, what: Break, rng: &mut Rng) {
    let n = rng.index(w.nodes.len());
    let leader = w.meta.leader.map_or(0, |(m, _)| m);
    match what {
        Break::Kill => w.stop_server(n, false),
        Break::PowerCut => w.stop_server(n, true),
        Break::StopServer => stop(w, &[Proc::Server(n)]),
        Break::StopBoth => stop(w, &[Proc::Server(n), Proc::Beacon(n)]),
        Break::Cut => cut_off(w, &[Place::Node(n)], FOR_EVER),
        Break::CutWithLeader => cut_off(w, &[Place::Node(n), Place::Manager(leader)], FOR_EVER),
        Break::LeaderLost => stop(w, &[Proc::Manager(leader)]),
        Break::StoreLost => cut_off(w, &[Place::Store], 10 * SECOND),
        Break::DriveHangs => {
            let d = rng.index(w.drives.len());
            w.drives[d].slow_least = FOR_EVER;
        }
        Break::ForcedDetach => {
            w.add_client(VolumeId(1));
        }
    }
}

fn stop(w: &mut World, procs: &[Proc]) {
    let until = w.now + FOR_EVER;
    w.frozen.extend(procs.iter().map(|p| (*p, until)));
}

/// Cuts places off from all others; among themselves they still talk.
fn cut_off(w: &mut World, away: &[Place], time: Time) {
    let mut others: Vec<Place> = (0..w.nodes.len()).map(Place::Node).collect();
    others.extend((0..w.clients.len()).map(Place::Client));
    others.extend((0..w.managers.len()).map(Place::Manager));
    others.push(Place::Store);
    let until = w.now + time;
    for a in away {
        for b in others.iter().filter(|b| !away.contains(b)) {
            w.cuts.insert((*a, *b), until);
            w.cuts.insert((*b, *a), until);
        }
    }
}
