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
    let mut hashes = std::collections::BTreeSet::new();
    // Clients, servers and managers that stop and start, a full drive with garbage collection, layers.
    for seed in [3, 15, 27] {
        let runs: Vec<_> = (0..2).map(|_| run_seed(seed, Rules::ALL, Trace::Last)).collect();
        assert_eq!(runs[0].events, runs[1].events, "seed {seed}");
        assert_eq!(runs[0].trace_hash, runs[1].trace_hash, "seed {seed}");
        let counts: Vec<Vec<_>> = runs.iter().map(|v| v.counts.all().collect()).collect();
        assert_eq!(counts[0], counts[1], "seed {seed}");
        hashes.insert(runs[0].trace_hash);
    }
    assert_eq!(hashes.len(), 3, "different seeds do different things");
}

/// Names of all source files of the native crates.
fn sources() -> Vec<String> {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let mut todo = vec![crates];
    let mut names = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            } else {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    names.retain(|name| name.ends_with(".rs"));
    names
}

#[test]
fn no_scenario_waits_for_a_mechanism_that_exists() {
    let sources = sources();
    assert!(sources.iter().any(|name| name == "later.rs"));
    for later in drystone_sim::later::LATER.iter().filter(|l| !l.file.is_empty()) {
        let found = sources.iter().find(|name| name.trim_end_matches(".rs").split('_').any(|word| word == later.file));
        assert!(found.is_none(), "{} exists: play \"{}\" now", found.unwrap(), later.name);
    }
}

#[test]
fn every_scripted_schedule_is_named_in_the_durability_document() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../..");
    let text = std::fs::read_to_string(root.join("docs/durability.md")).unwrap();
    let missing: Vec<_> =
        scenario::all().into_iter().map(|s| s.name).filter(|name| !text.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "not named: {missing:?}");
}
