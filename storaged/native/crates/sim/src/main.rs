//! `sim`: runs seeds and says what they did.
//!
//! `sim --scenarios [--only PART-OF-NAME] [--mutate RULE] [--trace]` plays the scripted schedules;
//! `sim --matrix [--jobs J]` plays the corruption matrix;
//! `sim --mutate RULE|all --seeds N --from S [--random]` looks for what notices that a rule is off (`--random`: by seeds alone);
//! `sim --seeds N --from S [--jobs J] [--keep-going] [--save DIR]` runs many, and makes the first that fails small and
//! keeps it in DIR; `sim --regressions DIR` plays those of a folder; `sim --figures [N]` measures faults in virtual time;
//! `sim --seed S [--trace|--trace-all]` replays one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod cli;

use std::process::ExitCode;

use cli::args::Args;
use cli::show_failure;
use drystone_sim::runner::{run_guarded, Trace};
use drystone_types::Rules;

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
    use drystone_sim::mutate::{hunt, hunt_seeds, rule, rules};
    use drystone_types::Rule;
    let rules: Vec<_> = if name == "all" { rules().collect() } else { rule(name).into_iter().collect() };
    let mut noticed = 0;
    for rule in &rules {
        let name = rule.name();
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
        eprintln!(
            "unknown rule {name}; `all` or one of {:?}",
            Rule::EVERY.iter().map(|r| r.name()).collect::<Vec<_>>()
        );
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

fn scenarios(rules: Rules, trace: bool, only: Option<&str>) -> ExitCode {
    let mut failed = 0;
    let wanted = |name: &str| only.is_none_or(|part| name.contains(part));
    let all: Vec<_> = drystone_sim::scenario::all().into_iter().filter(|s| wanted(s.name)).collect();
    for scenario in &all {
        let verdict = drystone_sim::scenario::run(scenario, rules);
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
    println!("{} passed, {failed} failed", all.len() - failed);
    if failed == 0 && !all.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn main() -> ExitCode {
    let args = match cli::args::parse() {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    if args.matrix {
        return matrix(args.jobs);
    }
    if args.scenarios {
        return scenarios(rules_of(args.mutate.as_deref()), args.trace, args.only.as_deref());
    }
    if let Some(rule) = &args.mutate {
        return mutate(rule, &args);
    }
    if let Some(folder) = &args.regressions {
        return cli::regressions::regressions(folder);
    }
    if let Some(runs) = args.figures {
        return cli::figures::figures(runs, args.from, args.jobs);
    }
    if let Some(seed) = args.seed {
        return one(seed, args.trace, args.trace_all);
    }
    cli::many::many(&args)
}

#[cfg(not(feature = "naive"))]
fn matrix(jobs: usize) -> ExitCode {
    if drystone_sim::matrix::run(jobs) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(feature = "naive")]
fn matrix(_: usize) -> ExitCode {
    eprintln!("the naive store has no bytes that could be damaged: build without --features naive");
    ExitCode::FAILURE
}
