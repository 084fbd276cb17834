//! Mutation tests: one rule of the protocol off, and a named oracle must notice it on a seed, or in a
//! scripted scenario, that passes with the rule on.

use drystone_types::{Rule, Rules};

use crate::runner::{run_guarded, Trace, Verdict};
use crate::scenario;

/// Rules that have a name and no switch yet, or a switch that nothing notices: this list only gets shorter.
pub const NOT_YET: &[Rule] = &[];

/// Rules whose absence no schedule can show, and the test of a crate that shows it.
pub const BY_UNIT_TESTS: &[(Rule, &str)] = &[
    (Rule::W1Socket, "without_w1_socket_a_range_is_free_before_its_answer_is_in_the_socket"),
    (Rule::PresenceOwn, "without_presence_own_a_parent_answers_for_the_own_lineage"),
    (Rule::StableZero, "without_stable_zero_an_attach_calls_older_generations_stable_before_they_are_rolled"),
    (Rule::EvidenceAge, "without_evidence_age_voters_that_were_never_silent_together_make_a_suspicion"),
];

/// Rules whose absence must be noticed by a schedule or a seed.
pub fn rules() -> impl Iterator<Item = Rule> {
    let elsewhere = |rule: &Rule| NOT_YET.contains(rule) || BY_UNIT_TESTS.iter().any(|(r, _)| r == rule);
    Rule::EVERY.iter().copied().filter(move |rule| !elsewhere(rule))
}

/// A rule by its name.
pub fn rule(name: &str) -> Option<Rule> {
    Rule::EVERY.iter().copied().find(|rule| rule.name().eq_ignore_ascii_case(name))
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
    verdict
        .failure
        .as_ref()
        .is_some_and(|f| !matches!(f.oracle.as_str(), "LIVENESS" | "STORM" | "SPIN" | "PANIC" | "EMPTY"))
}

/// Tries every scenario that is made for the rule, then seeds.
pub fn hunt(rule: Rule, from: u64, seeds: u64) -> Option<Caught> {
    hunt_scenarios(rule).or_else(|| hunt_seeds(rule, from, seeds))
}

/// Tries every scenario that is made for the rule.
pub fn hunt_scenarios(rule: Rule) -> Option<Caught> {
    for scenario in scenario::all().iter().filter(|s| s.breaks_without.contains(&rule)) {
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
