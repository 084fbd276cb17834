//! W1: the interval lock over blocks. Overlapping requests do not run concurrently, in either
//! order, unless both are reads; waiting is first come, first served.
//!
//! Every entry counts the earlier entries it conflicts with, held or waiting; it is granted when
//! the count reaches zero. That is fair by construction and costs O(overlaps), not O(open requests).

use smallvec::SmallVec;

use crate::hash::IntMap;
use crate::slab::Slab;

/// Blocks per granule: 1 MiB, so that a usual request touches one or two.
const GRANULE_SHIFT: u32 = 8;
/// A range over more granules than this stands in the list of wide ranges, which every acquire
/// looks through: a trim of a whole volume must not touch millions of granules.
const GRANULES_MAX: u64 = 64;

#[derive(Debug)]
struct Entry {
    start: u64,
    end: u64,
    exclusive: bool,
    blockers: u32,
    /// Later entries that wait for this one, with their births: one that gave up while waiting
    /// may have left its slot to another.
    waiters: SmallVec<[(u32, u64); 2]>,
    birth: u64,
    owner: u32,
}

/// The lock.
#[derive(Debug)]
pub(crate) struct RangeLock {
    entries: Slab<Entry>,
    granules: IntMap<u64, SmallVec<[u32; 4]>>,
    wide: Vec<u32>,
    births: u64,
}

impl RangeLock {
    pub(crate) fn new() -> Self {
        RangeLock { entries: Slab::new(), granules: IntMap::default(), wide: Vec::new(), births: 0 }
    }

    /// Takes or queues for blocks `start..end` (not empty); the flag says whether it is held now.
    pub(crate) fn acquire(&mut self, start: u64, end: u64, exclusive: bool, owner: u32) -> (u32, bool) {
        let earlier = self.conflicts(start, end, exclusive);
        let blockers = u32::try_from(earlier.len()).unwrap_or(u32::MAX);
        self.births += 1;
        let birth = self.births;
        let id = self.entries.insert(Entry { start, end, exclusive, blockers, waiters: SmallVec::new(), birth, owner });
        for e in earlier {
            if let Some(e) = self.entries.get_mut(e) {
                e.waiters.push((id, birth));
            }
        }
        self.file(id, start, end);
        (id, blockers == 0)
    }

    /// Gives up an entry, held or waiting; the owners that hold their ranges from now on are appended.
    pub(crate) fn release(&mut self, id: u32, granted: &mut SmallVec<[u32; 4]>) {
        let Some(entry) = self.entries.remove(id) else { return };
        self.unfile(id, entry.start, entry.end);
        for (w, birth) in entry.waiters {
            let Some(e) = self.entries.get_mut(w).filter(|e| e.birth == birth) else { continue };
            e.blockers = e.blockers.saturating_sub(1);
            if e.blockers == 0 {
                granted.push(e.owner);
            }
        }
    }

    /// Entries held or waited for.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn conflicts(&self, start: u64, end: u64, exclusive: bool) -> SmallVec<[u32; 8]> {
        let mut found: SmallVec<[u32; 8]> = SmallVec::new();
        let mut check = |id: u32| {
            let Some(e) = self.entries.get(id) else { return };
            if e.start < end && start < e.end && (e.exclusive || exclusive) && !found.contains(&id) {
                found.push(id);
            }
        };
        match granules(start, end) {
            Some(range) => {
                range.filter_map(|g| self.granules.get(&g)).flatten().for_each(|id| check(*id));
                self.wide.iter().for_each(|id| check(*id));
            }
            None => self.entries.iter().for_each(|(id, _)| check(id)),
        }
        found
    }

    fn file(&mut self, id: u32, start: u64, end: u64) {
        match granules(start, end) {
            Some(range) => range.for_each(|g| self.granules.entry(g).or_default().push(id)),
            None => self.wide.push(id),
        }
    }

    fn unfile(&mut self, id: u32, start: u64, end: u64) {
        let Some(range) = granules(start, end) else {
            self.wide.retain(|e| *e != id);
            return;
        };
        for g in range {
            let Some(list) = self.granules.get_mut(&g) else { continue };
            list.retain(|e| *e != id);
            if list.is_empty() {
                self.granules.remove(&g);
            }
        }
    }
}

fn granules(start: u64, end: u64) -> Option<core::ops::RangeInclusive<u64>> {
    let (first, last) = (start >> GRANULE_SHIFT, end.saturating_sub(1) >> GRANULE_SHIFT);
    (last - first < GRANULES_MAX).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One linear list, first come first served: obviously right, and slow.
    #[derive(Default)]
    struct Naive(Vec<(u32, u64, u64, bool, bool)>);

    impl Naive {
        fn held_after(&mut self) -> Vec<u32> {
            for i in 0..self.0.len() {
                let (_, s, e, x, _) = self.0[i];
                let free = self.0[..i].iter().all(|o| o.1 >= e || s >= o.2 || !(x || o.3));
                self.0[i].4 = free;
            }
            let mut held: Vec<u32> = self.0.iter().filter(|o| o.4).map(|o| o.0).collect();
            held.sort_unstable();
            held
        }
    }

    #[test]
    fn w1_two_reads_share_and_a_write_between_them_separates_them() {
        let mut l = RangeLock::new();
        let (r1, a) = l.acquire(0, 4, false, 1);
        let (w, b) = l.acquire(3, 5, true, 2);
        let (_r2, c) = l.acquire(4, 6, false, 3);
        assert_eq!((a, b, c), (true, false, false));
        let mut granted = SmallVec::new();
        l.release(r1, &mut granted);
        assert_eq!(granted.as_slice(), &[2]);
        granted.clear();
        l.release(w, &mut granted);
        assert_eq!(granted.as_slice(), &[3]);
    }

    proptest! {
        #[test]
        fn the_interval_lock_grants_what_a_naive_list_grants(
            ops in proptest::collection::vec((0u8..3, 0u64..40_000, 1u64..600, any::<bool>(), 0usize..64), 1..120)
        ) {
            let mut lock = RangeLock::new();
            let mut naive = Naive::default();
            let mut held: Vec<u32> = Vec::new();
            let mut ids: Vec<(u32, u32)> = Vec::new();
            for (n, (kind, start, len, exclusive, pick)) in ops.into_iter().enumerate() {
                if kind == 0 && !ids.is_empty() {
                    let (owner, id) = ids.remove(pick % ids.len());
                    let mut granted = SmallVec::new();
                    lock.release(id, &mut granted);
                    held.retain(|h| *h != owner);
                    held.extend(granted);
                    naive.0.retain(|o| o.0 != owner);
                } else {
                    // Every third range is wide enough for the list of wide ranges.
                    let len = if kind == 2 { len * 100 } else { len };
                    let owner = n as u32;
                    let (id, now) = lock.acquire(start, start + len, exclusive, owner);
                    ids.push((owner, id));
                    if now { held.push(owner); }
                    naive.0.push((owner, start, start + len, exclusive, false));
                }
                held.sort_unstable();
                prop_assert_eq!(&held, &naive.held_after());
            }
            prop_assert_eq!(lock.len(), ids.len());
        }
    }
}
