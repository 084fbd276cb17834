//! One seed from start to verdict, and many seeds on several threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use drystone_types::{Rules, VolumeId};

use crate::compares;
use crate::counts::Counts;
use crate::event::Ev;
use crate::final_check::HEAL_MAX;
use crate::manager::Manager;
use crate::meta::DriveRecord;
use crate::net::node_uuid;
use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::schedule::SPAN_MAX_FACTOR;
use crate::server::{Drive, Node};
use crate::storage;
use crate::world::{drive_id, Failure, World};

/// How much of a seed is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trace {
    /// Nothing: the fastest.
    Off,
    /// The last lines.
    Last,
    /// Everything.
    All,
}

/// Verdict of a seed.
#[derive(Debug)]
pub struct Verdict {
    /// Seed.
    pub seed: u64,
    /// What broke, if anything.
    pub failure: Option<Failure>,
    /// Counters.
    pub counts: Counts,
    /// Last lines of the trace, when one was kept.
    pub trace: Vec<String>,
    /// Hash of the whole trace, when one was kept: equal runs, equal hash.
    pub trace_hash: u64,
    /// Drives and clients as they were at the end.
    pub notes: Vec<String>,
    /// Events handled.
    pub events: u64,
}

/// A world with its machines switched on and one client per volume.
pub fn build(seed: u64, plan: Plan, rules: Rules) -> World {
    let mut w = World::empty(seed, plan, rules);
    for n in 0..w.plan.nodes {
        w.nodes.push(Node {
            power: true,
            up: false,
            life: 0,
            beacon: None,
            beacon_life: 0,
            page: Vec::new(),
            moved_at: 0,
            ends: Vec::new(),
            map: None,
            reading: None,
            opening: 0,
            armed: None,
        });
        for k in 0..w.plan.drives_per_node {
            let id = drive_id(n * w.plan.drives_per_node + k);
            let serial = w.fresh();
            w.meta.drives.insert(id, DriveRecord { serial, node: node_uuid(n), ..DriveRecord::default() });
            let dev = storage::blank_device(w.plan.drive_slots);
            w.drives.push(Drive::new(id, n, serial, dev));
        }
    }
    for _ in 0..2 {
        w.managers.push(Manager::default());
    }
    for n in 0..w.nodes.len() {
        w.after(10 + n as u64, Ev::StartServer(n));
    }
    for m in 0..w.managers.len() {
        w.after(1_000 + 50_000 * m as u64, Ev::ManagerTick(m));
    }
    for v in 1..=w.plan.volumes as u64 {
        w.add_client(VolumeId(v));
    }
    w
}

/// Runs a whole seed.
pub fn run_seed(seed: u64, rules: Rules, trace: Trace) -> Verdict {
    run_recipe(&Recipe::of(seed), rules, trace)
}

/// Runs a seed, or what is left of it.
pub fn run_recipe(recipe: &Recipe, rules: Rules, trace: Trace) -> Verdict {
    let (plan, schedule) = recipe.prepare();
    let mut w = build(recipe.seed, plan, rules);
    w.tracing = trace != Trace::Off;
    if trace == Trace::All {
        w.trace_max = usize::MAX;
    }
    for (i, entry) in schedule.iter().enumerate() {
        w.at(entry.at, Ev::Fault(i));
    }
    w.schedule = schedule;
    w.after(compares::EVERY, Ev::Compare(0));
    faulty_phase(&mut w, recipe);
    healing_phase(&mut w);
    collect(&mut w);
    if w.failure.is_none() {
        w.compare_frozen();
        w.compare_copies();
        w.final_space();
    }
    Verdict {
        seed: w.seed,
        failure: w.failure.clone(),
        notes: w.notes(),
        trace: w.trace_lines().cloned().collect(),
        trace_hash: w.trace_hash,
        events: w.events,
        counts: w.counts,
    }
}

/// Adds what the cores counted, and how much was done.
fn collect(w: &mut World) {
    for d in 0..w.drives.len() {
        w.collect_replica(d);
        w.collect_shadow(d);
    }
    for c in 0..w.clients.len() {
        w.collect_client(c);
    }
    if w.plan.lone {
        let (ended, late) = w.gaps.ended;
        w.counts.add("gap.requests", ended);
        w.counts.add("gap.over_5_s", late);
    }
    let (operations, faults) = (w.operations, w.faults_done);
    w.counts.add("total.operations", operations);
    w.counts.add("total.faults", faults);
    let virtual_seconds = w.now / 1_000_000;
    w.counts.add("total.virtual_seconds", virtual_seconds);
    let lost = w.drives.iter().map(|d| d.dev.sectors_lost).sum();
    w.counts.add("device.sectors_lost", lost);
    let met = w.drives.iter().map(|d| d.dev.met.get()).sum();
    w.counts.add("damage.met", met);
    let rewritten = w.drives.iter().map(|d| d.dev.replaced).sum();
    w.counts.add("damage.rewritten", rewritten);
}

fn faulty_phase(w: &mut World, recipe: &Recipe) {
    let start = w.now;
    if let Some(end) = recipe.end {
        return w.run_until(end, &mut |_| false);
    }
    let (span, most) = (start + w.plan.span, start + w.plan.span * SPAN_MAX_FACTOR);
    w.run_until(span, &mut |_| false);
    w.run_until(most, &mut |w| w.worked_enough());
    // A seed that did next to nothing proves next to nothing.
    if w.failure.is_none() && recipe.is_whole() && !w.worked_enough() {
        let (operations, faults) = (w.operations, w.faults_done);
        w.fail(
            "EMPTY",
            format!("only {operations} operations and {faults} faults in {} s", (w.now - start) / 1_000_000),
        );
    }
}

/// Heals everything, demands progress, reads everything, has the drives compare their copies.
pub fn healing_phase(w: &mut World) {
    w.heal_world();
    let until = w.now + HEAL_MAX;
    w.run_until(until, &mut |w| w.events % 64 == 0 && w.healed());
    if w.failure.is_none() && !w.healed() {
        let why = w.not_healed();
        w.fail("LIVENESS", why);
        return;
    }
    scrub_flipped(w);
    for v in 1..=w.plan.volumes as u64 {
        w.read_all(VolumeId(v));
    }
    let until = w.now + HEAL_MAX;
    w.run_until(until, &mut |w| w.events % 64 == 0 && w.volumes_ready());
    if w.failure.is_none() && !w.volumes_ready() {
        let why = w.not_healed();
        w.fail("LIVENESS", why);
    }
    // STABLE and holes settle before the copies are compared.
    let until = w.now + 3_000_000;
    w.run_until(until, &mut |_| false);
    w.compare_all();
}

/// A scrub under faults may not find a source for every repair; now it must.
fn scrub_flipped(w: &mut World) {
    for d in w.flipped.clone() {
        w.scrubbing = Some(d);
        w.scrub_rounds = 0;
        let life = w.drives[d].life;
        w.after(1, Ev::Scrub(d, life));
        let until = w.now + HEAL_MAX;
        w.run_until(until, &mut |w| w.scrubbing.is_none());
    }
    let until = w.now + 2_000_000;
    w.run_until(until, &mut |_| false);
}

/// Runs a seed and turns a panic of a core into a failure.
pub fn run_guarded(seed: u64, rules: Rules, trace: Trace) -> Verdict {
    run_recipe_guarded(&Recipe::of(seed), rules, trace)
}

/// Runs what is left of a seed and turns a panic of a core into a failure.
pub fn run_recipe_guarded(recipe: &Recipe, rules: Rules, trace: Trace) -> Verdict {
    let seed = recipe.seed;
    let result = std::panic::catch_unwind(|| run_recipe(recipe, rules, trace));
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "a panic without a message".to_owned());
        let failure = Failure { oracle: "PANIC".to_owned(), text, at: 0 };
        Verdict {
            seed,
            failure: Some(failure),
            counts: Counts::default(),
            trace: Vec::new(),
            trace_hash: 0,
            notes: Vec::new(),
            events: 0,
        }
    })
}

/// What many seeds did together.
#[derive(Debug, Default)]
pub struct Summary {
    /// Counters of all.
    pub counts: Counts,
    /// Verdicts of those that failed.
    pub failures: Vec<Verdict>,
    /// Events of all.
    pub events: u64,
    /// Seeds that were run.
    pub seeds: u64,
}

/// Runs seeds `from .. from + count` on `jobs` threads; `done` hears each verdict.
pub fn run_many(from: u64, count: u64, jobs: usize, rules: Rules, done: &(dyn Fn(&Verdict) -> bool + Sync)) -> Summary {
    let next = AtomicU64::new(0);
    let stop = AtomicU64::new(0);
    let total = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count || stop.load(Ordering::Relaxed) > 0 {
                    return;
                }
                let verdict = run_guarded(from + i, rules, Trace::Off);
                if !done(&verdict) {
                    stop.store(1, Ordering::Relaxed);
                }
                let Ok(mut all) = total.lock() else { return };
                all.counts.merge(&verdict.counts);
                all.events += verdict.events;
                all.seeds += 1;
                if verdict.failure.is_some() {
                    all.failures.push(verdict);
                }
            });
        }
    });
    total.into_inner().unwrap_or_default()
}
