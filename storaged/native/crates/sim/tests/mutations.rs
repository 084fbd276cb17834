//! One rule off at a time: a named oracle notices, in a schedule or a seed that passes with the rule on.
#![cfg(feature = "mutations")]

use drystone_sim::mutate::{hunt, RULES};
use drystone_sim::scenario;
use drystone_types::Rules;

/// Seeds tried where no schedule was written for a rule: several times what it has taken.
const SEEDS_MAX: u64 = 40;

#[test]
fn every_rule_that_is_switched_off_is_noticed_by_a_named_oracle() {
    let mut missed = Vec::new();
    for (name, rule) in RULES {
        match hunt(rule, 1000, SEEDS_MAX) {
            Some(caught) => println!("{name:<18} {:<16} {}", caught.oracle, caught.place),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

#[test]
fn every_schedule_made_for_a_rule_fails_without_it() {
    let made = scenario::all().into_iter().filter_map(|s| s.breaks_without.map(|rule| (s, rule)));
    let blind: Vec<_> = made
        .filter(|(s, rule)| scenario::run(s, Rules::without(*rule)).failure.is_none())
        .map(|(s, _)| s.name)
        .collect();
    assert!(blind.is_empty(), "without their rule these schedules notice nothing: {blind:?}");
}
