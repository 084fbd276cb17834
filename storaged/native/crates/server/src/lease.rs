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
