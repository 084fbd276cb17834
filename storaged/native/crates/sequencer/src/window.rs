//! W3: sequence numbers, `stable`, and the bounds of what is above it.

use std::collections::VecDeque;

use drystone_types::consts::{UNSTABLE_BYTES_MAX, UNSTABLE_VERSIONS_MAX};

/// Versions issued and not yet stable, oldest first.
#[derive(Debug)]
pub(crate) struct Window {
    /// Lowest sequence number in `ring`.
    base: u64,
    ring: VecDeque<(u32, bool)>,
    bytes: u64,
    open: usize,
}

impl Window {
    pub(crate) fn new() -> Self {
        Window { base: 1, ring: VecDeque::new(), bytes: 0, open: 0 }
    }

    /// Lowest outstanding − 1.
    pub(crate) fn stable(&self) -> u64 {
        self.base - 1
    }

    /// Last sequence number given out.
    pub(crate) fn last(&self) -> u64 {
        self.base - 1 + self.ring.len() as u64
    }

    /// Versions issued and not completed.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Whether one more version of that many bytes may be issued.
    pub(crate) fn has_room(&self, bytes: u32) -> bool {
        self.ring.len() < UNSTABLE_VERSIONS_MAX
            && (self.ring.is_empty() || self.bytes + u64::from(bytes) <= UNSTABLE_BYTES_MAX)
    }

    pub(crate) fn issue(&mut self, bytes: u32) -> u64 {
        self.ring.push_back((bytes, false));
        self.bytes += u64::from(bytes);
        self.open += 1;
        self.last()
    }

    /// Notes a completion; whether `stable` rose.
    pub(crate) fn complete(&mut self, seq: u64) -> bool {
        let at = seq.checked_sub(self.base).and_then(|i| usize::try_from(i).ok());
        let Some(entry) = at.and_then(|i| self.ring.get_mut(i)) else { return false };
        if !entry.1 {
            entry.1 = true;
            self.open = self.open.saturating_sub(1);
        }
        let before = self.base;
        while let Some((bytes, true)) = self.ring.front().copied() {
            self.ring.pop_front();
            self.bytes -= u64::from(bytes);
            self.base += 1;
        }
        self.base != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w3_stable_is_the_lowest_outstanding_minus_one() {
        let mut w = Window::new();
        let seqs: Vec<u64> = (0..3).map(|_| w.issue(4096)).collect();
        assert_eq!((seqs.as_slice(), w.stable()), ([1, 2, 3].as_slice(), 0));
        assert!(!w.complete(2));
        assert!(w.complete(1));
        assert_eq!((w.stable(), w.last(), w.open()), (2, 3, 1));
    }

    #[test]
    fn w3_the_window_ends_at_16384_versions_and_at_one_gib() {
        let mut w = Window::new();
        for _ in 0..UNSTABLE_VERSIONS_MAX {
            assert!(w.has_room(0));
            w.issue(0);
        }
        assert!(!w.has_room(0));
        let mut w = Window::new();
        for _ in 0..1024 {
            assert!(w.has_room(1 << 20));
            w.issue(1 << 20);
        }
        assert!(!w.has_room(4096));
        w.complete(1);
        assert!(w.has_room(4096));
    }
}
