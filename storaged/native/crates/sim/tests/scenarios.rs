//! The scripted schedules, and that a seed replays exactly.
#![allow(clippy::unwrap_used)]

use drystone_sim::runner::{run_seed, Trace};
use drystone_sim::scenario;
use drystone_types::Rules;

#[test]
fn every_scripted_schedule_keeps_every_oracle_quiet() {
    for scenario in scenario::all() {
        let verdict = scenario::run(&scenario, Rules::ALL);
        if let Some(failure) = verdict.failure {
            panic!("{}: {} {}\n{}", scenario.name, failure.oracle, failure.text, verdict.trace.join("\n"));
        }
    }
}

#[test]
fn a_seed_replays_exactly() {
    let runs: Vec<_> = (0..2).map(|_| run_seed(3, Rules::ALL, Trace::Last)).collect();
    assert_eq!(runs[0].events, runs[1].events);
    assert_eq!(runs[0].trace, runs[1].trace);
    let counts: Vec<Vec<_>> = runs.iter().map(|v| v.counts.all().collect()).collect();
    assert_eq!(counts[0], counts[1]);
}
