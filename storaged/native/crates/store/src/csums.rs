//! Cache of block checksums: a fixed table, so that its memory is what was configured.
//!
//! Eight entries share a row; within a row the one used longest ago goes. The tag holds the slot and
//! the low bits of its segment's sequence number, so that an entry of an earlier use never counts.

const WAYS: usize = 8;
const ENTRY: usize = 16;

/// The cache.
#[derive(Debug)]
pub struct CsumCache {
    rows: Vec<[(u64, u64); WAYS]>,
}

/// Tag of a slot in its present use; never 0.
fn tag(slot: u64, seg_seq: u64) -> u64 {
    (slot << 28 | (seg_seq & 0x0fff_ffff)).max(1)
}

impl CsumCache {
    /// A cache of about `bytes`; 0 keeps nothing.
    pub fn new(bytes: usize) -> CsumCache {
        CsumCache { rows: vec![[(0, 0); WAYS]; bytes / (WAYS * ENTRY)] }
    }
    fn row(&mut self, tag: u64) -> Option<&mut [(u64, u64); WAYS]> {
        let hash = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let at = hash.checked_rem(self.rows.len() as u64)?;
        self.rows.get_mut(at as usize)
    }
    /// Checksum of a slot, if it is here.
    pub fn get(&mut self, slot: u64, seg_seq: u64) -> Option<u64> {
        let tag = tag(slot, seg_seq);
        let row = self.row(tag)?;
        let at = row.iter().position(|(t, _)| *t == tag)?;
        row.get_mut(..=at)?.rotate_right(1);
        row.first().map(|(_, c)| *c)
    }
    /// Remembers a checksum.
    pub fn put(&mut self, slot: u64, seg_seq: u64, csum: u64) {
        let tag = tag(slot, seg_seq);
        let Some(row) = self.row(tag) else { return };
        let at = row.iter().position(|(t, _)| *t == tag).unwrap_or(WAYS - 1);
        if let Some(part) = row.get_mut(..=at) {
            part.rotate_right(1);
        }
        if let Some(first) = row.first_mut() {
            *first = (tag, csum);
        }
    }
    /// Bytes of memory.
    pub fn heap_bytes(&self) -> usize {
        self.rows.len() * WAYS * ENTRY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_of_an_earlier_use_of_the_slot_is_never_returned() {
        let mut cache = CsumCache::new(1 << 12);
        cache.put(70, 5, 1234);
        assert_eq!(cache.get(70, 5), Some(1234));
        assert_eq!(cache.get(70, 6), None);
        assert_eq!(CsumCache::new(0).get(70, 5), None);
    }

    #[test]
    fn the_cache_stays_within_its_bytes_and_keeps_what_is_used() {
        let mut cache = CsumCache::new(1024);
        for slot in 100..10_000 {
            cache.put(slot, 1, slot);
            assert_eq!(cache.get(slot, 1), Some(slot));
        }
        assert_eq!(cache.heap_bytes(), 1024);
    }
}
