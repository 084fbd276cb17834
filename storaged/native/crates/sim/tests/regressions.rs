//! A seed that fails is made small, kept as a file, and played again from it.
#![cfg(feature = "mutations")]
#![allow(clippy::unwrap_used)]

use drystone_sim::recipe::Recipe;
use drystone_sim::regress::{load, Regression};
use drystone_sim::runner::{run_guarded, Trace};
use drystone_sim::shrink::shrink;
use drystone_types::{Rule, Rules};

/// Runs that the test spends: fewer than `make sim`, since it only shows that it works.
const RUNS: u32 = 12;
/// Seeds searched for one that fails.
const SEEDS: u64 = 40;

#[test]
fn a_failing_seed_gets_smaller_and_its_file_fails_in_the_same_way() {
    // A rule whose absence nearly every seed shows: which seeds those are changes with every change of the cores.
    let rules = Rules::without(Rule::W2);
    let failing = (0..SEEDS).find_map(|seed| run_guarded(seed, rules, Trace::Off).failure.map(|f| (seed, f)));
    let (seed, failure) = failing.unwrap();
    let shrunk = shrink(seed, &failure, rules, RUNS);
    assert!(shrunk.recipe.prepare().1.len() < shrunk.faults_before, "{:?}", shrunk.recipe);
    assert!(shrunk.runs <= RUNS);

    let folder = std::env::temp_dir().join(format!("drystone-regressions-{}", std::process::id()));
    let written = Regression::of(&shrunk, "0123abc");
    written.save(&folder).unwrap();
    let read = load(&folder).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(read.len(), 1);
    let (_, read) = &read[0];
    assert_eq!(read, &written);
    assert!(read.plan_is_the_same());
    let again = read.play(rules).failure.unwrap();
    assert_eq!((again.oracle, again.at), (shrunk.failure.oracle, shrunk.failure.at));
    assert!(read.play(Rules::ALL).failure.is_none(), "with every rule on it passes");
}

#[test]
fn a_file_that_is_not_understood_is_refused_and_says_why() {
    let text = Regression {
        recipe: Recipe::of(7),
        oracle: "I6".to_owned(),
        plan: 1,
        commit: "abc".to_owned(),
        why: "two copies differ".to_owned(),
    }
    .text();
    assert!(Regression::parse(&text).is_ok());
    for (from, to) in [("format = 1", "format = 2"), ("seed = 7", "seed = x"), ("oracle = I6\n", ""), ("why", "what")] {
        let refused = Regression::parse(&text.replace(from, to));
        assert!(refused.is_err(), "{from:?} as {to:?}: {refused:?}");
    }
}

#[test]
fn a_fault_that_is_left_out_leaves_the_others_as_they_were() {
    let whole = Recipe::of(3).prepare().1;
    let keep: Vec<usize> = (0..whole.len()).filter(|i| i % 3 != 1).collect();
    let part = Recipe { keep: Some(keep.clone()), ..Recipe::of(3) }.prepare().1;
    assert!(part.iter().zip(keep).all(|(entry, i)| *entry == whole[i]));
    assert!(whole.windows(2).all(|pair| pair[0].at <= pair[1].at));
}
