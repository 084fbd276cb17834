//! Makes a failing seed small: fewer faults, an earlier end, fewer tricks, while the same oracle fails.

use drystone_types::Rules;

use crate::recipe::{Knob, Recipe};
use crate::runner::{run_recipe_guarded, Trace};
use crate::world::{Failure, Time};

/// Runs spent on one seed at most: what is not found by then is small enough to read.
pub const RUNS_MAX: u32 = 200;
/// The faulty phase of a shrunk seed goes on this long after its failure, so that the next version of the
/// code has the same chance to fail.
const TAIL: Time = 1_000_000;

/// A failing seed, made small.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What still fails.
    pub recipe: Recipe,
    /// How it fails.
    pub failure: Failure,
    /// Faults of the whole seed.
    pub faults_before: usize,
    /// Runs spent.
    pub runs: u32,
}

struct Shrinker {
    rules: Rules,
    oracle: String,
    best: Recipe,
    failure: Failure,
    runs: u32,
    runs_max: u32,
}

/// Shrinks a seed that fails.
pub fn shrink(seed: u64, failure: &Failure, rules: Rules, runs_max: u32) -> Shrunk {
    let best = Recipe::of(seed);
    let faults_before = best.prepare().1.len();
    let oracle = failure.oracle.clone();
    let mut s = Shrinker { rules, oracle, best, failure: failure.clone(), runs: 0, runs_max };
    s.end_early();
    s.drop_faults();
    s.drop_tricks();
    s.end_early();
    Shrunk { recipe: s.best, failure: s.failure, faults_before, runs: s.runs }
}

impl Shrinker {
    /// Takes a smaller recipe if the same oracle fails.
    fn try_this(&mut self, recipe: Recipe) -> bool {
        if self.runs >= self.runs_max || recipe == self.best {
            return false;
        }
        self.runs += 1;
        let verdict = run_recipe_guarded(&recipe, self.rules, Trace::Off);
        match verdict.failure {
            Some(failure) if failure.oracle == self.oracle => {
                (self.best, self.failure) = (recipe, failure);
                true
            }
            _ => false,
        }
    }

    /// Ends the faulty phase just after the failure, and forgets the faults that would come later.
    fn end_early(&mut self) {
        let end = self.failure.at + TAIL;
        // A panic has no time.
        if self.failure.at > 0 && self.best.end.is_none_or(|old| end < old) {
            self.try_this(Recipe { end: Some(end), ..self.best.clone() });
        }
        let all = Recipe { keep: None, ..self.best.clone() }.prepare().1;
        let in_time = |i: &usize| self.best.end.is_none_or(|end| all.get(*i).is_some_and(|e| e.at < end));
        let keep = self.kept(all.len()).into_iter().filter(in_time).collect();
        self.try_this(Recipe { keep: Some(keep), ..self.best.clone() });
    }

    fn kept(&self, all: usize) -> Vec<usize> {
        self.best.keep.clone().unwrap_or_else(|| (0..all).collect())
    }

    /// Delta debugging: ever smaller pieces of the list are left out.
    fn drop_faults(&mut self) {
        let all = Recipe { keep: None, ..self.best.clone() }.prepare().1.len();
        let mut piece = self.kept(all).len().div_ceil(2);
        while piece > 0 && self.runs < self.runs_max {
            let mut start = 0;
            let mut dropped = false;
            while start < self.kept(all).len() {
                let mut keep = self.kept(all);
                keep.drain(start..(start + piece).min(keep.len()));
                if self.try_this(Recipe { keep: Some(keep), ..self.best.clone() }) {
                    dropped = true;
                } else {
                    start += piece;
                }
            }
            if piece == 1 && !dropped {
                return;
            }
            piece = if piece == 1 { 1 } else { piece.div_ceil(2) };
        }
    }

    fn drop_tricks(&mut self) {
        for knob in Knob::ALL {
            let mut without = self.best.without.clone();
            without.push(knob);
            self.try_this(Recipe { without, ..self.best.clone() });
        }
    }
}
