//! What the program does with its options.

pub mod args;
pub mod figures;
pub mod many;
pub mod regressions;

use drystone_sim::runner::Verdict;

/// Says how a seed failed.
pub fn show_failure(verdict: &Verdict) {
    let Some(failure) = &verdict.failure else { return };
    println!("SEED {} FAILED at {:.6} s: oracle {}", verdict.seed, failure.at as f64 / 1e6, failure.oracle);
    println!("  {}", failure.text);
    println!("  replay: make sim SEED={}", verdict.seed);
}
