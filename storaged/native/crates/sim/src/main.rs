//! `sim`: runs seeds and says what they did.
//!
//! `sim --scenarios [--mutate RULE] [--trace]` plays the scripted schedules;
//! `sim --mutate RULE|all --seeds N --from S [--random]` looks for what notices that a rule is off (`--random`: by seeds alone);
//! `sim --seeds N --from S [--jobs J] [--keep-going]` runs many; `sim --seed S [--trace|--trace-all]` replays one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::time::Instant;

use drystone_sim::counts::Counts;
use drystone_sim::plan::FAULTS;
use drystone_sim::runner::{run_guarded, run_many, Summary, Trace, Verdict};
use drystone_types::Rules;

struct Args {
    seeds: u64,
    from: u64,
    jobs: usize,
    seed: Option<u64>,
    trace: bool,
    trace_all: bool,
    keep_going: bool,
    mutate: Option<String>,
    scenarios: bool,
    random: bool,
}

fn parse() -> Result<Args, String> {
    let mut args = Args {
        seeds: 100,
        from: 0,
        jobs: 2,
        seed: None,
        trace: false,
        trace_all: false,
        keep_going: false,
        mutate: None,
        scenarios: false,
        random: false,
    };
    let mut list = std::env::args().skip(1);
    while let Some(name) = list.next() {
        let mut number = || list.next().and_then(|v| v.parse::<u64>().ok()).ok_or(format!("{name} needs a number"));
        match name.as_str() {
            "--seeds" => args.seeds = number()?,
            "--from" => args.from = number()?,
            "--jobs" => args.jobs = number()? as usize,
            "--seed" => args.seed = Some(number()?),
            "--mutate" => args.mutate = list.next(),
            "--scenarios" => args.scenarios = true,
            "--random" => args.random = true,
            "--trace" => args.trace = true,
            "--trace-all" => args.trace_all = true,
            "--keep-going" => args.keep_going = true,
            _ => return Err(format!("unknown option {name}; see the head of main.rs")),
        }
    }
    Ok(args)
}

/// Faults and paths that a run of this many seeds must have met; a short run proves nothing by a zero.
fn missing(counts: &Counts, seeds: u64) -> Vec<&'static str> {
    const SEEDS_MIN: u64 = 100;
    if seeds < SEEDS_MIN {
        return Vec::new();
    }
    let faults = FAULTS.iter().map(|f| f.name());
    faults.chain(PATHS.iter().copied()).filter(|name| counts.get(name) == 0).collect()
}

/// Paths beside the faults: refusals, membership, recovery, resync, space, the network's tricks.
const PATHS: [&str; 60] = [
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
    "replica.copies_served",
    "replica.healed",
    "replica.late_nacks",
    "replica.parked",
    "replica.restamped",
    "replica.resync_blocks",
    "replica.resync_kept",
    "replica.void_writes",
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

fn show_failure(verdict: &Verdict) {
    let Some(failure) = &verdict.failure else { return };
    println!("SEED {} FAILED at {:.6} s: oracle {}", verdict.seed, failure.at as f64 / 1e6, failure.oracle);
    println!("  {}", failure.text);
    println!("  replay: make sim SEED={}", verdict.seed);
}

fn one(seed: u64, trace: bool, all: bool) -> ExitCode {
    let verdict = run_guarded(seed, Rules::ALL, if all { Trace::All } else { Trace::Last });
    if trace || all || verdict.failure.is_some() {
        verdict.trace.iter().for_each(|line| println!("{line}"));
    }
    verdict.notes.iter().for_each(|note| println!("{note}"));
    for (name, n) in verdict.counts.all() {
        println!("{name:<40} {n}");
    }
    if verdict.failure.is_some() {
        show_failure(&verdict);
        return ExitCode::FAILURE;
    }
    println!("seed {seed} passed, {} events", verdict.events);
    ExitCode::SUCCESS
}

#[cfg(feature = "mutations")]
fn mutate(name: &str, args: &Args) -> ExitCode {
    use drystone_sim::mutate::{hunt, hunt_seeds, RULES};
    let rules: Vec<_> = RULES.into_iter().filter(|(n, _)| name == "all" || n.eq_ignore_ascii_case(name)).collect();
    let mut noticed = 0;
    for (name, rule) in &rules {
        let caught =
            if args.random { hunt_seeds(*rule, args.from, args.seeds) } else { hunt(*rule, args.from, args.seeds) };
        match caught {
            Some(caught) => {
                noticed += 1;
                println!("{name:<18} off: {:<16} {} ({})", caught.oracle, caught.place, caught.text);
            }
            None => println!("{name:<18} off: NOT NOTICED in {} seeds from {}", args.seeds, args.from),
        }
    }
    println!("{noticed} passed, {} failed", rules.len() - noticed);
    if rules.is_empty() {
        eprintln!("unknown rule {name}; `all` or one of {:?}", RULES.map(|(n, _)| n));
    }
    if noticed == rules.len() && noticed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(not(feature = "mutations"))]
fn mutate(_name: &str, _args: &Args) -> ExitCode {
    eprintln!("build with --features mutations to switch rules off");
    ExitCode::FAILURE
}

#[cfg(feature = "mutations")]
fn rules_of(off: Option<&str>) -> Rules {
    off.and_then(drystone_sim::mutate::rule).map_or(Rules::ALL, Rules::without)
}

#[cfg(not(feature = "mutations"))]
fn rules_of(_off: Option<&str>) -> Rules {
    Rules::ALL
}

fn scenarios(rules: Rules, trace: bool) -> ExitCode {
    let mut failed = 0;
    for scenario in drystone_sim::scenario::all() {
        let verdict = drystone_sim::scenario::run(&scenario, rules);
        if trace {
            println!("== {}", scenario.name);
            verdict.trace.iter().for_each(|line| println!("{line}"));
        }
        match &verdict.failure {
            None => println!("ok      {}", scenario.name),
            Some(f) => {
                failed += 1;
                println!("FAILED  {}: {} {}", scenario.name, f.oracle, f.text);
                verdict.notes.iter().for_each(|note| println!("  {note}"));
            }
        }
    }
    for later in &drystone_sim::later::LATER {
        println!("later   {} ({})", later.name, later.reason);
    }
    println!("{} passed, {failed} failed", drystone_sim::scenario::all().len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    if args.scenarios {
        return scenarios(rules_of(args.mutate.as_deref()), args.trace);
    }
    if let Some(rule) = &args.mutate {
        return mutate(rule, &args);
    }
    if let Some(seed) = args.seed {
        return one(seed, args.trace, args.trace_all);
    }
    let start = Instant::now();
    let done = |v: &Verdict| {
        show_failure(v);
        v.failure.is_none() || args.keep_going
    };
    let Summary { counts, failures, events, seeds } = run_many(args.from, args.seeds, args.jobs, Rules::ALL, &done);
    for (name, n) in counts.all() {
        println!("{name:<40} {n}");
    }
    let seconds = start.elapsed().as_secs_f64();
    let missing = missing(&counts, seeds);
    for name in &missing {
        println!("NOT EMPTY: {name} never happened in {} seeds", args.seeds);
    }
    println!("seeds {} to {}: {events} events in {seconds:.1} s", args.from, args.from + args.seeds.max(1) - 1);
    println!("{} passed, {} failed", args.seeds - failures.len() as u64, failures.len());
    if let Some(first) = failures.iter().map(|v| v.seed).min() {
        let verdict = run_guarded(first, Rules::ALL, Trace::Last);
        verdict.trace.iter().for_each(|line| println!("{line}"));
        show_failure(&verdict);
        return ExitCode::FAILURE;
    }
    if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
