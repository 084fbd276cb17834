//! Presence cache of clones: which blocks the own lineage is known not to hold.
//!
//! A hint only: it lets the READ of a parent start beside the one of the own lineage, whose
//! answer decides (B12). So it may forget, and forgets by age when it is full.

use std::collections::VecDeque;

use crate::hash::IntMap;
use crate::parent::place;

/// Chunks remembered: 128 B each, so at most 8 MiB a volume, which covers 256 GiB.
const CHUNKS_MAX: usize = 65_536;
/// 64-bit words of one chunk's bitmap.
const WORDS: usize = 16;

/// Bits of blocks known to be absent.
#[derive(Debug)]
pub(crate) struct Presence {
    absent: IntMap<u64, [u64; WORDS]>,
    order: VecDeque<u64>,
}

impl Presence {
    pub(crate) fn new() -> Self {
        Presence { absent: IntMap::default(), order: VecDeque::new() }
    }

    pub(crate) fn clear(&mut self) {
        *self = Presence::new();
    }

    /// Whether all of a range within one chunk is known to be absent.
    pub(crate) fn all_absent(&self, block: u64, count: u32) -> bool {
        let (chunk, first) = place(block);
        let Some(words) = self.absent.get(&chunk) else { return false };
        (first..first + u64::from(count)).all(|b| words.get((b / 64) as usize).is_some_and(|w| w >> (b % 64) & 1 == 1))
    }

    /// Notes for every block of a range within one chunk whether it is absent.
    pub(crate) fn learn(&mut self, block: u64, count: u32, absent: impl Fn(u64) -> bool) {
        let (chunk, first) = place(block);
        let any = (0..u64::from(count)).any(&absent);
        if !any && !self.absent.contains_key(&chunk) {
            return;
        }
        if !self.absent.contains_key(&chunk) {
            self.order.push_back(chunk);
            if self.order.len() > CHUNKS_MAX {
                if let Some(old) = self.order.pop_front() {
                    self.absent.remove(&old);
                }
            }
        }
        let words = self.absent.entry(chunk).or_insert([0; WORDS]);
        for i in 0..u64::from(count) {
            let b = first + i;
            if let Some(w) = words.get_mut((b / 64) as usize) {
                *w = *w & !(1 << (b % 64)) | u64::from(absent(i)) << (b % 64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_absent_until_it_is_written() {
        let mut p = Presence::new();
        assert!(!p.all_absent(1000, 8));
        p.learn(1000, 24, |_| true);
        assert!(p.all_absent(1000, 24));
        p.learn(1010, 1, |_| false);
        assert!(!p.all_absent(1000, 24) && p.all_absent(1000, 10));
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut p = Presence::new();
        for chunk in 0..CHUNKS_MAX as u64 + 10 {
            p.learn(chunk * 1024, 1, |_| true);
        }
        assert_eq!(p.absent.len(), CHUNKS_MAX);
        assert!(!p.all_absent(0, 1));
    }
}
