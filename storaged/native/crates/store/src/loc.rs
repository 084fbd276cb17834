//! Where a block lies: 48 bits, slot and distance back to its group header.

use crate::api::BlockKind;

/// Bytes of a slot: header, data block, superblock copy alike.
pub const SLOT: usize = 4096;
const DIST_BITS: u32 = 12;
const DIST_MASK: u64 = (1 << DIST_BITS) - 1;
const HOLE: u64 = 0xffd;
const ZERO: u64 = 0xffe;
const BAD: u64 = 0xfff;

/// Location of a block: a data slot with its distance to the header, or for a block without data
/// the header that holds its entry. 0 is no location: slot 0 is a superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord, Hash)]
pub struct Loc(pub u64);

impl Loc {
    /// A data slot, `dist` slots after its header.
    pub fn data(slot: u64, dist: u64) -> Loc {
        debug_assert!(dist > 0 && dist < HOLE && slot < 1 << 36);
        Loc(slot << DIST_BITS | dist)
    }
    /// A block without data whose entry is in the header at `header`.
    pub fn mark(header: u64, kind: BlockKind) -> Loc {
        let code = match kind {
            BlockKind::Hole => HOLE,
            BlockKind::Zero => ZERO,
            BlockKind::Bad | BlockKind::Data => BAD,
        };
        Loc(header << DIST_BITS | code)
    }
    /// Kind of the block.
    pub fn kind(self) -> BlockKind {
        match self.0 & DIST_MASK {
            HOLE => BlockKind::Hole,
            ZERO => BlockKind::Zero,
            BAD => BlockKind::Bad,
            _ => BlockKind::Data,
        }
    }
    /// Whether the block has a data slot.
    pub fn is_data(self) -> bool {
        self.0 & DIST_MASK < HOLE
    }
    /// Slot of the data, or of the header.
    pub fn slot(self) -> u64 {
        self.0 >> DIST_BITS
    }
    /// Slots back to the header; 0 for a block without data.
    pub fn dist(self) -> u64 {
        if self.is_data() {
            self.0 & DIST_MASK
        } else {
            0
        }
    }
    /// Slot of the group header.
    pub fn header(self) -> u64 {
        self.slot().saturating_sub(self.dist())
    }
    /// Location of the block `n` further on in the same run.
    pub fn advance(self, n: u16) -> Loc {
        if self.is_data() {
            Loc(self.0 + (u64::from(n) << DIST_BITS) + u64::from(n))
        } else {
            self
        }
    }
    /// From disk: `None` unless the value can be a location.
    pub fn from_raw(raw: u64) -> Option<Loc> {
        let loc = Loc(raw);
        let plausible = raw >> 48 == 0 && raw & DIST_MASK != 0 && loc.slot() > loc.dist();
        plausible.then_some(loc)
    }
}
