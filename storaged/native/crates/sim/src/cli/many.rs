//! Many seeds: what they must have met, how fast they were, and what is kept of one that failed.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use drystone_sim::counts::Counts;
use drystone_sim::plan::{DRIVE_FAULTS, FAULTS, MOVES};
use drystone_sim::regress::Regression;
use drystone_sim::runner::{run_guarded, run_many, Summary, Trace, Verdict};
use drystone_sim::shrink::{shrink, RUNS_MAX};
use drystone_types::Rules;

use super::args::Args;
use super::show_failure;

/// From this many seeds on the speed is judged.
const JUDGED_SEEDS: u64 = 1000;
/// What that many may take, on two cores.
const JUDGED_SECONDS: f64 = 600.0;
const JUDGED_CORES: f64 = 2.0;

/// Faults and paths that a run of this many seeds must have met; a short run proves nothing by a zero.
fn missing(counts: &Counts, seeds: u64) -> Vec<&'static str> {
    const SEEDS_MIN: u64 = 100;
    if seeds < SEEDS_MIN {
        return Vec::new();
    }
    // The naive store has no bytes that could be damaged.
    let spoilt = DRIVE_FAULTS.iter().map(|f| f.name()).chain(DAMAGE).filter(|_| !cfg!(feature = "naive"));
    let always = FAULTS.iter().chain(&MOVES).map(|f| f.name()).chain(PATHS);
    let rare = |name: &&str| seeds >= JUDGED_SEEDS || !RARE.contains(name);
    always.chain(spoilt).filter(rare).filter(|name| counts.get(name) == 0).collect()
}

/// Paths beside the faults: refusals, membership, recovery, resync, space, the network's tricks.
const PATHS: [&str; 69] = [
    "answer.nack_epoch",
    "answer.nack_gen",
    "answer.retry",
    "answer.need_ticket",
    "answer.bad_checksum",
    "beacon.meets_another_server",
    "check.i12_layers",
    "check.i12_writes",
    "check.i15_acks",
    "check.i15_reopened",
    "check.i17_empty",
    "check.i17_objects",
    "check.i1_i5",
    "check.i20_space",
    "check.i6",
    "check.lease_over",
    "client.stalled",
    "client.fenced_by_replica",
    "client.calls_repeated",
    "device.sectors_lost",
    "drop.dead",
    "drop.lease_over",
    "drop.quiesced",
    "freed.again",
    "freed.groups",
    "freed.steps",
    "layer.frozen",
    "layer.frozen_by_next",
    "lease.held",
    "lease.lost",
    "manager.leader_changes",
    "net.datagrams_lost",
    "net.delayed",
    "net.duplicated",
    "net.relayed",
    "net.reordered",
    "pg.drops",
    "pg.joins",
    "pg.promotions",
    "pg.joiner_dropped",
    "pg.recreated",
    "pg.retired",
    "replica.copies_served",
    "replica.healed",
    "replica.late_nacks",
    "replica.parked",
    "replica.restamped",
    "replica.resync_blocks",
    "replica.resync_kept",
    "replica.void_writes",
    "compare.chunks",
    "compare.done",
    "compare.failed",
    "compare.unstable",
    "scrub.done",
    "sequencer.credit_waits",
    "sequencer.hedges",
    "sequencer.lock_waits",
    "sequencer.resends",
    "sequencer.rmw",
    "sequencer.rolls",
    "shadow.cut",
    "shadow.kept",
    "shadow.moves",
    "shadow.reused",
    "store.gc_blocks_moved",
    "store.reply_lost",
    "suspect.written",
    "zombie.write_refused",
];

/// Paths that only spoilt drives lead to.
const DAMAGE: [&str; 17] = [
    "damage.met",
    "damage.proven_whole",
    "damage.rewritten",
    "damage.trusted_again",
    "device.misdirected",
    "device.read_errors",
    "device.sectors_unreadable",
    "device.stale",
    "device.write_errors",
    "drive.suspect",
    "leave.drive_failed",
    "leave.suspect",
    "liar.caught",
    "rot.checkpoint",
    "rot.header",
    "rot.summary",
    "rot.superblock",
];

/// Of these, what one seed in some hundreds meets, and only a long run must: hardly any seed writes so much that its
/// log has a checkpoint. The matrix damages one in every run of it.
const RARE: [&str; 1] = ["rot.checkpoint"];

/// Runs seeds.
pub fn many(args: &Args) -> ExitCode {
    let start = (Instant::now(), cpu_seconds());
    let done = |v: &Verdict| {
        show_failure(v);
        v.failure.is_none() || args.keep_going
    };
    let summary = run_many(args.from, args.seeds, args.jobs, Rules::ALL, &done);
    let Summary { counts, failures, events, seeds } = &summary;
    for (name, n) in counts.all() {
        println!("{name:<40} {n}");
    }
    let missing = missing(counts, *seeds);
    for name in &missing {
        println!("NOT EMPTY: {name} never happened in {} seeds", args.seeds);
    }
    let seconds = start.0.elapsed().as_secs_f64();
    let speed = *seeds as f64 / seconds.max(0.001);
    println!("seeds {} to {}: {events} events in {seconds:.1} s", args.from, args.from + args.seeds.max(1) - 1);
    println!("speed: {speed:.2} seeds/s with {} threads", args.jobs);
    let in_time = judge_speed(*seeds, cpu_seconds() - start.1);
    let no_gaps = judge_gaps(counts);
    println!("{} passed, {} failed", args.seeds - failures.len() as u64, failures.len());
    if let Some(first) = failures.iter().map(|v| v.seed).min() {
        explain(first, args.save.as_deref());
        return ExitCode::FAILURE;
    }
    if missing.is_empty() && in_time && no_gaps {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Where one node at a time is lost, 999 of 1000 requests wait less than five seconds.
fn judge_gaps(counts: &Counts) -> bool {
    let [all, late] = ["gap.requests", "gap.over_5_s"].map(|name| counts.get(name));
    let met = late * 1000 <= all;
    if all > 0 {
        let word = if met { "met" } else { "MISSED" };
        println!("judged: {late} of {all} requests waited over 5 s while one node was lost, bar 1 of 1000: {word}");
    }
    met
}

/// Processor time is judged, not the clock: what else runs on the machine does not count.
fn judge_speed(seeds: u64, cpu: f64) -> bool {
    if seeds < JUDGED_SEEDS {
        return true;
    }
    let seconds = cpu / JUDGED_CORES;
    let bar = JUDGED_SECONDS * seeds as f64 / JUDGED_SEEDS as f64;
    let met = seconds <= bar;
    let word = if met { "met" } else { "MISSED" };
    println!("judged: {seeds} seeds in {seconds:.0} s of two cores, bar {bar:.0} s: {word}");
    met
}

/// Processor time of this process, user and system. Linux counts it in hundredths.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Shows a failing seed, makes it small and keeps it.
fn explain(seed: u64, save: Option<&Path>) {
    let verdict = run_guarded(seed, Rules::ALL, Trace::Last);
    verdict.trace.iter().for_each(|line| println!("{line}"));
    show_failure(&verdict);
    let (Some(failure), Some(folder)) = (&verdict.failure, save) else { return };
    let shrunk = shrink(seed, failure, Rules::ALL, RUNS_MAX);
    let kept = shrunk.recipe.prepare().1.len();
    println!("shrunk in {} runs from {} faults to {kept}: {:?}", shrunk.runs, shrunk.faults_before, shrunk.recipe);
    match Regression::of(&shrunk, &commit()).save(folder) {
        Ok(path) => println!("kept as {}: commit it with the fix", path.display()),
        Err(why) => println!("could not be kept: {why}"),
    }
}

fn commit() -> String {
    let git = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    git.ok().and_then(|o| String::from_utf8(o.stdout).ok()).map_or("unknown".to_owned(), |s| s.trim().to_owned())
}
