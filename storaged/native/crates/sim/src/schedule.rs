//! When which fault comes: drawn before the run, each with a seed of its own, so that single ones can be left out
//! and the others stay what they were.

use crate::plan::{Fault, Plan};
use crate::rng::Rng;
use crate::world::Time;

/// Nothing goes wrong before this: the first leases, attachments and elections are over by then.
const FIRST_AT: Time = 4_000_000;
/// Virtual time after which a seed that has not done its operations ends its faulty phase all the same, in
/// spans of its plan.
pub const SPAN_MAX_FACTOR: u64 = 8;

/// A fault that is to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When.
    pub at: Time,
    /// What.
    pub fault: Fault,
    /// Decides where and how.
    pub seed: u64,
}

/// Mean pause between two faults of single drives: what each takes to heal is most of it.
const DRIVE_EVERY: Time = 5_000_000;

/// Mean pause between two changes of places: a copy, the end of the old one, and some of what it left may be freed.
const MOVE_EVERY: Time = 6_000_000;

/// The faults of a seed.
pub fn draw(seed: u64, plan: &Plan) -> Vec<Entry> {
    let mut entries = row(Rng::new(seed).fork(4), &plan.faults, plan.fault_every, plan.span);
    entries.extend(row(Rng::new(seed).fork(7), &plan.drive_faults, DRIVE_EVERY, plan.span));
    entries.extend(row(Rng::new(seed).fork(9), &plan.moves, MOVE_EVERY, plan.span));
    entries.sort_by_key(|entry| entry.at);
    entries
}

fn row(mut rng: Rng, faults: &[Fault], every: Time, span: Time) -> Vec<Entry> {
    let end = span.saturating_mul(SPAN_MAX_FACTOR);
    let mut entries = Vec::new();
    let mut at = FIRST_AT;
    while at < end {
        let Some(fault) = rng.pick(faults).copied() else { break };
        entries.push(Entry { at, fault, seed: rng.bits() });
        // A seed that is not done after its span is one whose few requests mostly wait: its faults get rarer.
        let rarer = 1 + at / span.max(1);
        at += rng.range(every / 4, every * 2) * rarer;
    }
    entries
}
