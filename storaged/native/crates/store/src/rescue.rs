//! Versions of blocks whose group header is rotten: the summary of a closed segment has them too. Without them a
//! copy could not tell whether another drive's bytes are the ones that were lost here.

use crate::entry::Entry;
use crate::layout::Layout;
use crate::loc::{Loc, SLOT};
use crate::reader::Part;
use crate::segment::{decode_summary, Footer, SummaryGroup};
use crate::segs::{SegState, Segs};
use drystone_types::{ObjKey, Version};

/// The part of a segment's summary to read next: its footer, then its body; `None` = both are here, or of no use.
pub fn next_part(layout: &Layout, segs: &Segs, parts: &[Part], seg: u32) -> Option<Part> {
    segs.get(seg).filter(|s| matches!(s.state, SegState::Closed | SegState::Stuck))?;
    let footer_slot = layout.seg_start(seg) + layout.seg_slots - 1;
    let unless_read = |slot: u64, slots: u64| {
        let new = !parts.iter().any(|p| p.slot == slot && p.slots == slots);
        new.then_some(Part { slot, slots, buf: None })
    };
    unless_read(footer_slot, 1).or_else(|| {
        let footer = footer_of(layout, segs, parts, seg)?;
        let (slot, slots) = body_of(layout, seg, &footer);
        unless_read(slot, slots).filter(|_| slots > 0)
    })
}

fn footer_of(layout: &Layout, segs: &Segs, parts: &[Part], seg: u32) -> Option<Footer> {
    let slot = layout.seg_start(seg) + layout.seg_slots - 1;
    let bytes = parts.iter().find(|p| p.slot == slot && p.slots == 1)?.buf.as_ref()?;
    Footer::decode(bytes.as_slice(), seg, segs.get(seg)?.seq, layout.seg_slots).ok()
}

fn body_of(layout: &Layout, seg: u32, footer: &Footer) -> (u64, u64) {
    let slots = u64::from(footer.body_len).div_ceil(SLOT as u64);
    (layout.seg_start(seg) + u64::from(footer.body_slot), slots)
}

/// The groups of a segment, if its summary was read and is whole.
pub fn groups(layout: &Layout, segs: &Segs, parts: &[Part], seg: u32) -> Option<Vec<SummaryGroup>> {
    let footer = footer_of(layout, segs, parts, seg)?;
    let (slot, slots) = body_of(layout, seg, &footer);
    let bytes = parts.iter().find(|p| p.slot == slot && p.slots == slots)?.buf.as_ref()?;
    decode_summary(bytes.as_slice().get(..footer.body_len as usize)?, &footer).ok()
}

/// Version of the entry of a group that put a block at `loc`.
pub fn version_in(group: &SummaryGroup, key: ObjKey, block: u16, loc: Loc) -> Option<Version> {
    let mut slot = loc.header() + 1;
    let mut found = None;
    for entry in &group.entries {
        let at = slot;
        slot += entry.data_slots();
        let Entry::Blocks(b) = entry else { continue };
        let covers = b.key == key && !b.forget && (b.first..b.first + b.count).contains(&block);
        if !covers || b.kind != loc.kind() {
            continue;
        }
        if !b.has_data() {
            found = Some(b.version);
        } else if at + u64::from(block - b.first) == loc.slot() {
            return Some(b.version);
        }
    }
    found
}
