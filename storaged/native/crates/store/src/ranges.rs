//! Values on runs of blocks of one chunk: sorted, not overlapping, few.

/// A run with its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run<T> {
    /// First block.
    pub first: u16,
    /// Blocks, at least one.
    pub count: u16,
    /// Value of each of them.
    pub value: T,
}

impl<T> Run<T> {
    /// Block after the last one.
    pub fn end(&self) -> u16 {
        self.first + self.count
    }
}

/// Map from block of a chunk to a value, kept as runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeMap<T> {
    runs: Vec<Run<T>>,
}

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        RangeMap { runs: Vec::new() }
    }
}

impl<T: Copy + PartialEq> RangeMap<T> {
    /// Whether no block has a value.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
    /// Runs in block order.
    pub fn iter(&self) -> impl Iterator<Item = &Run<T>> {
        self.runs.iter()
    }
    /// Value of one block.
    pub fn get(&self, block: u16) -> Option<T> {
        let at = self.runs.partition_point(|r| r.end() <= block);
        self.runs.get(at).filter(|r| r.first <= block).map(|r| r.value)
    }
    /// Removes the values of a range.
    pub fn remove(&mut self, first: u16, count: u16) {
        self.splice(first, count, None);
    }
    /// Sets the value of a range.
    pub fn set(&mut self, first: u16, count: u16, value: T) {
        if count > 0 {
            self.splice(first, count, Some(Run { first, count, value }));
        }
    }
    /// Keeps only the runs that the test accepts.
    pub fn retain(&mut self, keep: impl FnMut(&Run<T>) -> bool) {
        self.runs.retain(keep);
    }

    fn splice(&mut self, first: u16, count: u16, new: Option<Run<T>>) {
        let end = first + count;
        let from = self.runs.partition_point(|r| r.end() <= first);
        let to = self.runs.partition_point(|r| r.first < end).max(from);
        let head = self.runs.get(from).filter(|r| r.first < first && from < to);
        let head = head.map(|r| Run { first: r.first, count: first - r.first, value: r.value });
        let tail = to.checked_sub(1).and_then(|i| self.runs.get(i)).filter(|r| r.end() > end && from < to);
        let tail = tail.map(|r| Run { first: end, count: r.end() - end, value: r.value });
        self.runs.splice(from..to, head.into_iter().chain(new).chain(tail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_map_equals_a_plain_array(ops in proptest::collection::vec((0u16..64, 1u16..20, proptest::option::of(0u8..4)), 0..60)) {
            let mut map = RangeMap::default();
            let mut plain = [None; 96];
            for (first, count, value) in ops {
                match value {
                    Some(v) => map.set(first, count, v),
                    None => map.remove(first, count),
                }
                plain[usize::from(first)..usize::from(first + count)].fill(value);
            }
            for (block, want) in (0u16..).zip(plain) {
                prop_assert_eq!(map.get(block), want);
            }
            let runs: Vec<_> = map.iter().copied().collect();
            prop_assert!(runs.windows(2).all(|w| w[0].end() <= w[1].first && w[0].count > 0));
        }
    }
}
