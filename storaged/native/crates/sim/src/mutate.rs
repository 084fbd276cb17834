//! Mutation tests: one rule of the protocol off, and a named oracle must notice it on a seed, or in a
//! scripted scenario, that passes with the rule on.

use drystone_types::{Rule, Rules};

use crate::runner::{run_guarded, Trace, Verdict};
use crate::scenario;

/// Rules whose absence must be noticed.
pub const RULES: [(&str, Rule); 16] = [
    ("W1", Rule::W1),
    ("R1", Rule::R1),
    ("R2", Rule::R2),
    ("R5", Rule::R5),
    ("R6b", Rule::R6b),
    ("R6c", Rule::R6c),
    ("A3", Rule::A3),
    ("A5", Rule::A5),
    ("SealDrains", Rule::SealDrains),
    ("AdoptRestamps", Rule::AdoptRestamps),
    ("StoreCasBeforeAck", Rule::StoreCasBeforeAck),
    ("W2", Rule::W2),
    ("A4", Rule::A4),
    ("SourceWins", Rule::SourceWins),
    ("ReadLease", Rule::ReadLease),
    ("MeetServer", Rule::MeetServer),
];

/// A rule by its name.
pub fn rule(name: &str) -> Option<Rule> {
    RULES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, rule)| *rule)
}

/// What noticed that a rule is off.
#[derive(Debug)]
pub struct Caught {
    /// Seed or scenario.
    pub place: String,
    /// Oracle.
    pub oracle: String,
    /// What it saw.
    pub text: String,
}

/// Oracles of safety: time limits and stalls do not count as noticing.
fn counts(verdict: &Verdict) -> bool {
    verdict.failure.as_ref().is_some_and(|f| !matches!(f.oracle.as_str(), "LIVENESS" | "STORM" | "SPIN" | "PANIC"))
}

/// Tries every scenario that is made for the rule, then seeds.
pub fn hunt(rule: Rule, from: u64, seeds: u64) -> Option<Caught> {
    hunt_scenarios(rule).or_else(|| hunt_seeds(rule, from, seeds))
}

/// Tries every scenario that is made for the rule.
pub fn hunt_scenarios(rule: Rule) -> Option<Caught> {
    for scenario in scenario::all().iter().filter(|s| s.breaks_without == Some(rule)) {
        let off = scenario::run(scenario, Rules::without(rule));
        if let (Some(failure), None) = (off.failure, scenario::run(scenario, Rules::ALL).failure) {
            return Some(Caught {
                place: format!("scenario \"{}\"", scenario.name),
                oracle: failure.oracle,
                text: failure.text,
            });
        }
    }
    None
}

/// Tries seeds.
pub fn hunt_seeds(rule: Rule, from: u64, seeds: u64) -> Option<Caught> {
    for seed in from..from + seeds {
        let off = run_guarded(seed, Rules::without(rule), Trace::Off);
        if !counts(&off) || run_guarded(seed, Rules::ALL, Trace::Off).failure.is_some() {
            continue;
        }
        let failure = off.failure?;
        return Some(Caught { place: format!("seed {seed}"), oracle: failure.oracle, text: failure.text });
    }
    None
}
