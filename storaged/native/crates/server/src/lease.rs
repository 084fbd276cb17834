//! The lease page (engine §4.5): one slot per answering thread. The thread bumps a counter, the
//! beacon writes until when the thread may answer reads. Atomics only: the page is shared between two
//! threads or, as a file, between two processes ([`crate::lease_file`]), and a hung thread must not hold
//! the other up.
//!
//! Every word has one writer, the server or the beacon. A lease counts only for the instance of the server
//! that the beacon has acknowledged: it takes every lease away *before* it acknowledges another one, so a
//! restarted server never answers by the lease of its predecessor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use drystone_reactor::SharedWords;
use drystone_types::consts::{Micros, READ_LEASE};
use drystone_types::Rev;

/// Answering threads of one server: far above the drives of any node.
pub const SLOTS: usize = 64;

/// Words of the page: a header, a line of 64 bytes for each writer, and two lines for each slot, so that no
/// store of the one makes the other's processor fetch a line again.
pub(crate) const WORDS: usize = SLOTS_AT + SLOTS * SLOT_WORDS;
const SERVER: usize = 8;
const MAP_REV: usize = 9;
const READ_AT: usize = 10;
const BEACON: usize = 16;
const ACKNOWLEDGED: usize = 17;
const WANTS_MAP: usize = 18;
const IN_QUORUM: usize = 19;
const SLOTS_AT: usize = 24;
const SLOT_WORDS: usize = 16;
const VALID_UNTIL: usize = 8;

/// The only instance of a page within one process.
const ALONE: u64 = 1;
/// A lease never ends later than 1.5 s from now; one that seems to, of a file, is of another clock.
const LEASE_SEEMS_MAX: Micros = 2 * READ_LEASE;

enum Words {
    Own(Vec<AtomicU64>),
    File(SharedWords),
}

/// All slots of a node, as the server or the beacon sees them.
#[derive(Clone)]
pub struct LeasePage {
    words: Arc<Words>,
    /// Instance of the server on whose side this is; of the beacon's side unused.
    instance: u64,
}

/// What the beacon reads of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The server's instance; 0 = none.
    pub instance: u64,
    /// Revision of its map, and when the newest ReadMap that gave one began.
    pub map: (Rev, Option<Micros>),
    /// Counters of all slots.
    pub counters: Vec<u64>,
}

impl Default for LeasePage {
    fn default() -> Self {
        let words = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let page = LeasePage { words: Arc::new(Words::Own(words)), instance: ALONE };
        page.store(SERVER, ALONE);
        page.store(ACKNOWLEDGED, ALONE);
        page
    }
}

impl LeasePage {
    /// The server's side of a mapped file. What its predecessor said is forgotten before its instance shows.
    pub(crate) fn of_server(words: SharedWords, instance: u64) -> LeasePage {
        let page = LeasePage { words: Arc::new(Words::File(words)), instance };
        for at in [SERVER, MAP_REV, READ_AT] {
            page.store(at, 0);
        }
        page.store(SERVER, instance);
        page
    }

    /// The beacon's side of a mapped file: no lease of its predecessor stays.
    pub(crate) fn of_beacon(words: SharedWords, boot: u64) -> LeasePage {
        let page = LeasePage { words: Arc::new(Words::File(words)), instance: 0 };
        page.withdraw();
        page.store(BEACON, boot);
        page
    }

    /// Whether it is a file that another process has mapped.
    pub fn is_shared(&self) -> bool {
        matches!(*self.words, Words::File(_))
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        match &*self.words {
            Words::Own(words) => words.get(index),
            Words::File(words) => words.word(index),
        }
    }
    fn load(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |w| w.load(Ordering::SeqCst))
    }
    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// The thread of this slot is alive: called at each turn and at least every 100 ms.
    pub fn bump(&self, slot: usize) {
        if let Some(word) = slot_word(slot, 0).and_then(|at| self.word(at)) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Until when the thread of this slot may answer reads; 0 = not at all.
    pub fn valid_until(&self, slot: usize, now: Micros) -> Micros {
        if self.word(ACKNOWLEDGED).is_none_or(|w| w.load(Ordering::Acquire) != self.instance) {
            return 0;
        }
        let until = slot_word(slot, VALID_UNTIL).and_then(|at| self.word(at));
        let until = until.map_or(0, |w| w.load(Ordering::Acquire));
        if self.is_shared() && until > now.saturating_add(LEASE_SEEMS_MAX) {
            return 0;
        }
        until
    }

    /// The map that every drive's thread was given before this call (B11); neither number ever falls.
    pub fn publish_map(&self, rev: Rev, read_at: Option<Micros>) {
        // The revision first: whoever sees the time sees a map at least as new as that read.
        if let Some(word) = self.word(MAP_REV) {
            word.fetch_max(rev.0, Ordering::SeqCst);
        }
        if let (Some(word), Some(at)) = (self.word(READ_AT), read_at) {
            word.fetch_max(at, Ordering::SeqCst);
        }
    }

    /// This server answers nothing any more.
    pub fn leave(&self) {
        if self.load(SERVER) == self.instance {
            self.store(SERVER, 0);
        }
    }

    /// How often the beacon asked for a ReadMap.
    pub fn map_wanted(&self) -> u64 {
        self.load(WANTS_MAP)
    }

    /// Whether the beacon says that this node is in quorum.
    pub fn in_quorum(&self) -> bool {
        self.load(IN_QUORUM) != 0
    }

    /// What the server says, all of one instance; `None` at the moment in which it changes.
    pub fn observe(&self) -> Option<Seen> {
        let instance = self.load(SERVER);
        // In the opposite order of `publish_map`.
        let read_at = self.load(READ_AT);
        let rev = Rev(self.load(MAP_REV));
        let counters = (0..SLOTS).map(|slot| slot_word(slot, 0).map_or(0, |at| self.load(at))).collect();
        let map = (rev, (read_at != 0).then_some(read_at));
        (self.load(SERVER) == instance).then_some(Seen { instance, map, counters })
    }

    /// Which instance of the server the leases are for.
    pub fn acknowledged(&self) -> u64 {
        self.load(ACKNOWLEDGED)
    }

    /// Leases are for this instance from now on. The page must be zero.
    pub fn acknowledge(&self, instance: u64) {
        self.store(ACKNOWLEDGED, instance);
    }

    /// The server shall read the map, in a read that begins after this call.
    pub fn want_map(&self) {
        if let Some(word) = self.word(WANTS_MAP) {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// For the server's log and figures.
    pub fn set_quorum(&self, inside: bool) {
        self.store(IN_QUORUM, u64::from(inside));
    }

    /// New content from the beacon.
    pub fn set(&self, page: &[Micros]) {
        for (slot, until) in page.iter().enumerate() {
            if let Some(at) = slot_word(slot, VALID_UNTIL) {
                self.store(at, *until);
            }
        }
    }

    /// No lease for anybody: of a beacon that begins or ends.
    pub fn withdraw(&self) {
        self.set(&[0; SLOTS]);
        self.acknowledge(0);
        self.set_quorum(false);
    }
}

fn slot_word(slot: usize, part: usize) -> Option<usize> {
    (slot < SLOTS).then(|| SLOTS_AT + slot * SLOT_WORDS + part)
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
