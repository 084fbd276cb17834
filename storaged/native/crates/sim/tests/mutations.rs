//! One rule off at a time: a named oracle notices, in a schedule that passes with the rule on.
#![cfg(feature = "mutations")]

use drystone_sim::mutate::{hunt_scenarios, rules, BY_UNIT_TESTS, NOT_YET};
use drystone_sim::scenario;
use drystone_types::Rules;

/// A seed that shows a rule today shows another one tomorrow: each rule has a schedule of its own.
#[test]
fn every_rule_that_is_switched_off_is_noticed_by_a_named_oracle() {
    assert!(NOT_YET.is_empty(), "nothing notices these: {NOT_YET:?}");
    let mut missed = Vec::new();
    for rule in rules() {
        let name = rule.name();
        match hunt_scenarios(rule) {
            Some(caught) => println!("{name:<18} {:<16} {}", caught.oracle, caught.place),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

#[test]
fn every_schedule_made_for_a_rule_fails_without_it() {
    let all = scenario::all();
    let made = all.iter().flat_map(|s| s.breaks_without.iter().map(move |rule| (s, *rule)));
    let blind: Vec<_> = made
        .filter(|(s, rule)| scenario::run(s, Rules::without(*rule)).failure.is_none())
        .map(|(s, rule)| (s.name, rule.name()))
        .collect();
    assert!(blind.is_empty(), "without their rule these schedules notice nothing: {blind:?}");
}

#[test]
fn every_rule_that_a_test_of_its_crate_shows_has_that_test() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(std::path::Path::to_owned);
    let text = crates.map(|dir| tests_below(&dir)).unwrap_or_default();
    let missing: Vec<_> =
        BY_UNIT_TESTS.iter().filter(|(_, test)| !text.contains(&format!("fn {test}("))).map(|(_, test)| test).collect();
    assert!(missing.is_empty(), "no such test: {missing:?}");
}

/// Every source file of the native crates, one after the other.
fn tests_below(dir: &std::path::Path) -> String {
    let Ok(entries) = std::fs::read_dir(dir) else { return String::new() };
    let mut text = String::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            text += &tests_below(&path);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            text += &std::fs::read_to_string(&path).unwrap_or_default();
        }
    }
    text
}
