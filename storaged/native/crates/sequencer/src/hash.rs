//! A fixed hasher for small integer keys: deterministic in every process, and one multiplication
//! instead of a keyed hash. The keys (consumer tags, lock granules) come from the local front
//! end only; nobody can aim collisions at another tenant.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Map by integer.
pub(crate) type IntMap<K, V> = HashMap<K, V, BuildHasherDefault<IntHasher>>;

/// Multiplicative (Fibonacci) hashing with a final fold.
#[derive(Default, Clone, Copy)]
pub(crate) struct IntHasher(u64);

impl Hasher for IntHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        let x = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = x ^ (x >> 32);
    }
}
