//! The slots of the lease page: one per answering thread (§4.5).

use drystone_types::consts::{Micros, LEASE_SLOT_FRESH};
use drystone_types::{Rule, Rules};

/// Most slots: threads of one server process, far above any machine's cores.
pub const SLOTS_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Slot {
    counter: u64,
    moved_at: Option<Micros>,
    valid_until: Micros,
    /// When the lease ended; a ReadMap begun at or after it is needed to take it again.
    lapsed_at: Option<Micros>,
}

impl Slot {
    fn is_fresh(&self, now: Micros) -> bool {
        self.moved_at.is_some_and(|at| now.saturating_sub(at) <= LEASE_SLOT_FRESH)
    }
}

/// All slots.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    rules: Rules,
}

impl Slots {
    /// Slots without a lease: at start, too, a ReadMap comes first.
    pub fn new(count: usize, now: Micros, rules: Rules) -> Slots {
        let slot = Slot { counter: 0, moved_at: None, valid_until: 0, lapsed_at: Some(now) };
        Slots { slots: vec![slot; count.min(SLOTS_MAX)], rules }
    }

    /// The threads are those of another process: no lease, and what its counters show now is no sign of life.
    pub fn restart(&mut self, now: Micros, counters: &[u64]) {
        self.void(now);
        for (slot, counter) in self.slots.iter_mut().zip(counters) {
            (slot.counter, slot.moved_at) = (*counter, None);
        }
    }

    /// When a thread last moved.
    pub fn moved_at(&self) -> Option<Micros> {
        self.slots.iter().filter_map(|s| s.moved_at).max()
    }

    /// Counters as read from the page. A thread that begins, or goes on, without a lease may not have seen the maps
    /// that were read before: it needs one that is read from now on.
    pub fn counters(&mut self, now: Micros, counters: &[u64]) {
        for (slot, counter) in self.slots.iter_mut().zip(counters) {
            if slot.counter == *counter {
                continue;
            }
            if !slot.is_fresh(now) && slot.valid_until == 0 {
                slot.lapsed_at = Some(now);
            }
            (slot.counter, slot.moved_at) = (*counter, Some(now));
        }
    }

    /// Ends what is over. Returns whether a lease lapsed just now.
    pub fn expire(&mut self, now: Micros) -> bool {
        let mut lapsed = false;
        for slot in self.slots.iter_mut().filter(|s| s.valid_until != 0 && s.valid_until <= now) {
            (slot.valid_until, slot.lapsed_at, lapsed) = (0, Some(now), true);
        }
        lapsed
    }

    /// Takes every lease away.
    pub fn void(&mut self, now: Micros) {
        for slot in &mut self.slots {
            (slot.valid_until, slot.lapsed_at) = (0, Some(now));
        }
    }

    /// Extends the slots that moved lately to `until`; a lapsed one only if the newest ReadMap began
    /// after the lapse, and after a majority echoed again (`echoed_since`): voters may echo again because
    /// this node was dropped, and a map read before that does not show it.
    pub fn extend(&mut self, now: Micros, until: Micros, echoed_since: Micros, map_read_at: Option<Micros>) {
        if until <= now {
            return;
        }
        let (any_slot, any_map) = (!self.rules.on(Rule::SlotFresh), !self.rules.on(Rule::LeaseReadMap));
        for slot in &mut self.slots {
            let read_since =
                slot.lapsed_at.is_none_or(|lapse| map_read_at.is_some_and(|read| read >= lapse.max(echoed_since)));
            if (slot.is_fresh(now) || any_slot) && (read_since || any_map) {
                slot.lapsed_at = None;
                slot.valid_until = slot.valid_until.max(until);
            }
        }
    }

    /// Whether a slot waits for a ReadMap begun after `map_read_at`.
    pub fn wants_map(&self, echoed_since: Micros, map_read_at: Option<Micros>) -> bool {
        let stale = |lapse: Micros| map_read_at.is_none_or(|read| read < lapse.max(echoed_since));
        self.slots.iter().any(|s| s.lapsed_at.is_some_and(stale))
    }

    /// Until when each slot's thread may answer reads; 0 = not at all.
    pub fn page(&self) -> Vec<Micros> {
        self.slots.iter().map(|s| s.valid_until).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_begins_late_waits_for_a_map_that_is_read_after_its_begin() {
        let mut slots = Slots::new(2, 0, Rules::ALL);
        slots.counters(10, &[1, 0]);
        slots.extend(10, 1_500_000, 0, Some(20));
        assert_eq!(slots.page(), [1_500_000, 0]);
        assert!(!slots.wants_map(0, Some(20)), "nobody runs in the second slot");
        // A drive is opened: the map of long ago may show it in sync where it was dropped meanwhile.
        slots.counters(900_000, &[2, 1]);
        slots.extend(900_000, 2_400_000, 0, Some(20));
        assert_eq!(slots.page(), [2_400_000, 0]);
        assert!(slots.wants_map(0, Some(20)));
        slots.extend(950_000, 2_450_000, 0, Some(900_000));
        assert_eq!(slots.page(), [2_450_000, 2_450_000]);
    }

    #[test]
    fn a_thread_that_hung_shorter_than_its_lease_keeps_it() {
        let mut slots = Slots::new(1, 0, Rules::ALL);
        slots.counters(10, &[1]);
        slots.extend(10, 1_500_000, 0, Some(20));
        slots.counters(800_000, &[2]);
        slots.extend(800_000, 2_000_000, 0, Some(20));
        assert_eq!(slots.page(), [2_000_000]);
    }
}
