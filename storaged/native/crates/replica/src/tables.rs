//! Hash tables with a fixed hasher: lookups are O(1) and runs are reproducible. Whoever
//! iterates sorts first. The keys are ids made by the store, not chosen by an attacker.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A multiplicative hasher for small integer keys.
#[derive(Default, Clone, Copy)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u16(&mut self, x: u16) {
        self.write_u64(u64::from(x));
    }
    fn write_u32(&mut self, x: u32) {
        self.write_u64(u64::from(x));
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = (self.0.rotate_left(23) ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A table keyed by ids.
pub(crate) type Table<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Keys in order, for everything that becomes visible outside.
pub(crate) fn sorted_keys<K: Ord + Copy, V>(table: &Table<K, V>) -> Vec<K> {
    let mut keys: Vec<K> = table.keys().copied().collect();
    keys.sort_unstable();
    keys
}
