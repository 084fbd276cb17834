//! Where superblocks and segments lie on a drive.

use crate::loc::SLOT;
use drystone_types::consts::SEGMENT_SIZE;

/// Slots before the first and after the last segment: two superblock copies each, far enough
/// apart that one torn or lost 32 KiB stripe does not take both.
pub const EDGE_SLOTS: u64 = 16;
/// Smallest segment: a full checkpoint chunk and the largest small value fit twice.
pub const SEGMENT_MIN: u64 = 256 << 10;
/// Fewest segments of a drive: three streams, a checkpoint beside the old one, and room for GC.
pub const SEGMENTS_MIN: u64 = 16;
/// Largest drive: slots have 36 bits.
pub const SLOTS_MAX: u64 = 1 << 36;

/// Geometry of a formatted drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Slots of one segment.
    pub seg_slots: u64,
    /// Segments.
    pub segments: u32,
    /// Slots of the drive.
    pub slots: u64,
}

impl Layout {
    /// Geometry of a device of `bytes` with segments of `segment_bytes`; `None` if it is too small,
    /// too large, or the segment size is not usable.
    pub fn new(bytes: u64, segment_bytes: u64) -> Option<Layout> {
        let slot = SLOT as u64;
        let sized = (SEGMENT_MIN..=SEGMENT_SIZE).contains(&segment_bytes) && segment_bytes % slot == 0;
        let slots = bytes / slot;
        let seg_slots = segment_bytes / slot;
        let segments = slots.checked_sub(2 * EDGE_SLOTS)?.checked_div(seg_slots)?;
        let fits = sized && slots <= SLOTS_MAX && segments >= SEGMENTS_MIN;
        let segments = u32::try_from(segments).ok()?;
        fits.then_some(Layout { seg_slots, segments, slots })
    }
    /// Slots of the four superblock copies. A checkpoint writes the first two, durable, before the others.
    pub fn superblocks(&self) -> [u64; 4] {
        [0, self.slots - 1, EDGE_SLOTS / 2, self.slots - EDGE_SLOTS / 2]
    }
    /// First slot of a segment.
    pub fn seg_start(&self, seg: u32) -> u64 {
        EDGE_SLOTS + u64::from(seg) * self.seg_slots
    }
    /// Segment of a slot; `None` for the edges.
    pub fn seg_of(&self, slot: u64) -> Option<u32> {
        let seg = slot.checked_sub(EDGE_SLOTS)? / self.seg_slots;
        u32::try_from(seg).ok().filter(|s| *s < self.segments)
    }
    /// Slots of the drive that can hold data when everything is packed: without segment headers,
    /// summaries and group headers (a group of single blocks holds 45), and twice the index.
    pub fn data_slots(&self) -> u64 {
        let per_segment = self.seg_slots - 2 - self.seg_slots / 48;
        u64::from(self.segments) * per_segment / 46 * 45 / 200 * 199
    }
}
