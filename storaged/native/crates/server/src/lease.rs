//! The lease page (engine §4.5): one slot per answering thread. The thread bumps a counter, the
//! beacon writes until when the thread may answer reads. Atomics only: the page is what later is
//! mapped between two processes, and a hung thread must not hold the other up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use drystone_types::consts::Micros;

/// Answering threads of one server: far above the drives of any node.
pub const SLOTS: usize = 64;

#[derive(Default)]
struct Slot {
    counter: AtomicU64,
    valid_until: AtomicU64,
}

/// All slots of a node.
#[derive(Clone)]
pub struct LeasePage(Arc<Vec<Slot>>);

impl Default for LeasePage {
    fn default() -> Self {
        LeasePage(Arc::new((0..SLOTS).map(|_| Slot::default()).collect()))
    }
}

impl LeasePage {
    /// The thread of this slot is alive: called at each turn and at least every 100 ms.
    pub fn bump(&self, slot: usize) {
        if let Some(s) = self.0.get(slot) {
            s.counter.fetch_add(1, Ordering::Relaxed);
        }
    }
    /// Until when the thread of this slot may answer reads; 0 = not at all.
    pub fn valid_until(&self, slot: usize) -> Micros {
        self.0.get(slot).map_or(0, |s| s.valid_until.load(Ordering::Acquire))
    }
    /// All counters, for the beacon.
    pub fn counters(&self) -> Vec<u64> {
        self.0.iter().map(|s| s.counter.load(Ordering::Relaxed)).collect()
    }
    /// New content from the beacon.
    pub fn set(&self, page: &[Micros]) {
        for (slot, until) in self.0.iter().zip(page) {
            slot.valid_until.store(*until, Ordering::Release);
        }
    }
}

/// What a drive's thread makes of its slot.
///
/// A lease counts one turn after the page shows it: the map it rests on was queued for the thread
/// before the beacon heard of it, so by then the drive has adopted that map (B11). A lease that the
/// beacon took away ends at the next event.
#[derive(Default)]
pub(crate) struct LeaseView {
    in_force: Micros,
    seen: Micros,
}

impl LeaseView {
    /// At the end of a turn: the lease to be told to the core, if it changed.
    pub(crate) fn end_turn(&mut self, shown: Micros) -> Option<Micros> {
        let until = shown.min(core::mem::replace(&mut self.seen, shown));
        let changed = until != self.in_force;
        self.in_force = until;
        changed.then_some(until)
    }
    /// At each event: the lease to be told to the core, if it was taken away.
    pub(crate) fn lower(&mut self, shown: Micros) -> Option<Micros> {
        if shown >= self.in_force {
            return None;
        }
        self.in_force = shown;
        Some(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b11_a_lease_counts_one_turn_after_it_was_shown() {
        let mut view = LeaseView::default();
        assert_eq!(view.end_turn(0), None);
        assert_eq!(view.end_turn(500), None, "the map that it rests on may still be queued");
        assert_eq!(view.end_turn(900), Some(500));
        assert_eq!(view.end_turn(900), Some(900));
    }

    #[test]
    fn a_lease_that_was_taken_away_ends_at_the_next_event() {
        let mut view = LeaseView { in_force: 900, seen: 900 };
        assert_eq!(view.lower(1000), None, "only the end of a turn raises it");
        assert_eq!(view.lower(0), Some(0));
        assert_eq!(view.end_turn(0), None);
        assert_eq!(view.end_turn(2000), None);
        assert_eq!(view.end_turn(2000), Some(2000));
    }
}
