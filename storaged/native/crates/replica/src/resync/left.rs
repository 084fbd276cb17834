//! How much a joiner still has to copy. An estimate: what a chunk costs is known only when it is compared, and the
//! chunks of a later page only when that is asked for. It is 0 only when every copy is complete.

use drystone_store::api::ObjectStore;
use drystone_types::consts::{BLOCK_SIZE, CHUNK_BLOCKS};

use super::Phase;
use crate::replica::Replica;

/// A chunk of which nothing is known is taken for a full one.
const CHUNK_BYTES: u64 = CHUNK_BLOCKS as u64 * BLOCK_SIZE as u64;

impl<S: ObjectStore> Replica<S> {
    /// Bytes that this drive's copies still lack, estimated by what chunks have cost so far.
    pub fn resync_bytes_left(&self) -> u64 {
        let chunk = match self.stats.resync_chunks {
            0 => CHUNK_BYTES,
            n => (self.stats.resync_bytes / n).clamp(BLOCK_SIZE as u64, CHUNK_BYTES),
        };
        let (mut listed, mut chunks, mut unlisted) = (0u64, 0u64, 0u64);
        for rs in self.resyncing.iter().filter_map(|id| self.pgs.get(id)?.resync.as_ref()) {
            match rs.phase {
                Phase::Complete => {}
                Phase::Page | Phase::Draining => {
                    listed += 1;
                    // A page that is done but not durable is one chunk that is left.
                    chunks += (rs.queue.len() as u64 + rs.jobs.len() as u64).max(1);
                }
                Phase::NeedList | Phase::Listing | Phase::Stopped | Phase::Held => unlisted += 1,
            }
        }
        // Groups that wait for their turn are as large as those that have theirs.
        let each = chunks.checked_div(listed).unwrap_or(1).max(1);
        (chunks + unlisted * each).saturating_mul(chunk)
    }
}
