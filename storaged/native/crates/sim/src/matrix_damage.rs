//! How a cell of the matrix damages a drive.

use drystone_store::segment::SegHeader;
use drystone_types::{Buf, VolumeId};

use crate::history::pattern;
use crate::matrix::{Cell, Damage, Part, BLOCKS};
use crate::register::Tag;
use crate::scenario::Script;
use crate::storage::{FOOTER, GROUP};

/// Blocks that are looked at: in the first segments, in later ones, and in the one that is open.
const CHOSEN: [u64; 5] = [2, 41, 83, 121, BLOCKS - 6];

/// What was there before the damage, for what is rolled back.
#[derive(Default)]
pub(crate) struct Before {
    /// Per pass and drive: slot of the root of the checkpoint, and its bytes.
    roots: Vec<Vec<(u64, Buf)>>,
    /// Superblocks at the first checkpoint.
    supers: Vec<Buf>,
    /// Tags of the chosen blocks, per pass and volume.
    tags: Vec<[Vec<Tag>; 2]>,
}

impl Before {
    pub(crate) fn note_roots(&mut self, s: &Script, pass: usize) {
        let of = |d: &crate::server::Drive| {
            let slot = d.replica.as_ref().map_or(0, |r| r.store().superblock().root.slot);
            (slot, d.dev.read(slot * 4096, 4096))
        };
        self.roots.push(s.w.drives.iter().map(of).collect());
        if pass == 0 {
            self.supers = s.w.drives.iter().map(|d| d.dev.read(0, 4096)).collect();
        }
    }
    pub(crate) fn note_content(&mut self, s: &Script, _pass: usize) {
        let tags = |vol| CHOSEN.iter().map(|b| s.w.history.possible(vol, b * 8)[0]).collect();
        self.tags.push([tags(VolumeId(1)), tags(VolumeId(2))]);
    }
    fn block(&self, pass: usize, vol: usize, n: usize) -> Buf {
        pattern(VolumeId(vol as u64 + 1), CHOSEN[n] * 8, 8, self.tags[pass][vol][n])
    }
}

/// Damages a drive; gives how many sectors.
pub(crate) fn damage(s: &mut Script, before: &Before, cell: Cell, d: usize) -> u64 {
    let changes = match cell.part {
        Part::Data => data(s, before, cell.damage, d),
        Part::Header => headers(s, before, cell.damage, d),
        Part::Summary => summaries(s, before, cell.damage, d),
        Part::Checkpoint => checkpoint(s, before, cell.damage, d),
        Part::Superblock => superblocks(s, before, cell.damage, d),
    };
    let dev = &mut s.w.drives[d].dev;
    let mut damaged = 0;
    for (slot, bytes) in changes {
        if dev.read(slot * 4096, 4096).as_slice() != bytes.as_slice() {
            dev.spoil(slot, bytes);
            damaged += 1;
        }
    }
    damaged
}

fn at(s: &Script, d: usize, slot: u64) -> Buf {
    s.w.drives[d].dev.read(slot * 4096, 4096)
}

fn find(s: &Script, d: usize, bytes: &Buf) -> Option<u64> {
    let dev = &s.w.drives[d].dev;
    dev.sectors().into_iter().rev().find(|slot| dev.sector(*slot) == Some(bytes.as_slice()))
}

/// A sector as each damage leaves it; what is put in its place is given for the last two.
fn spoilt(s: &Script, d: usize, slot: u64, damage: Damage, other: Buf, older: Buf) -> Vec<(u64, Buf)> {
    let now = at(s, d, slot);
    let one = match damage {
        Damage::BitFlip => {
            let mut bytes = now.as_slice().to_vec();
            // Within what every structure uses of its sector.
            bytes[16 + slot as usize * 37 % 80] ^= 1 << (slot % 8);
            Buf::copy_from(&bytes)
        }
        Damage::Zeroed => Buf::copy_from(&[0; 4096]),
        Damage::Neighbour => return vec![(slot, at(s, d, slot + 1)), (slot + 1, now)],
        Damage::OtherVolume => other,
        Damage::RolledBack => older,
    };
    vec![(slot, one)]
}

fn data(s: &Script, before: &Before, damage: Damage, d: usize) -> Vec<(u64, Buf)> {
    let mut out = Vec::new();
    for n in 0..CHOSEN.len() {
        let vol = n % 2;
        let Some(slot) = find(s, d, &before.block(1, vol, n)) else { continue };
        out.extend(spoilt(s, d, slot, damage, before.block(1, 1 - vol, n), before.block(0, vol, n)));
    }
    out
}

/// Slot of the header of the group that holds a block.
fn header_of(s: &Script, d: usize, block: &Buf) -> Option<u64> {
    let slot = find(s, d, block)?;
    (slot.saturating_sub(500)..slot).rev().find(|h| s.w.drives[d].dev.sector(*h).is_some_and(|b| &b[8..16] == GROUP))
}

fn headers(s: &Script, before: &Before, damage: Damage, d: usize) -> Vec<(u64, Buf)> {
    let mut out = Vec::new();
    for n in 0..CHOSEN.len() {
        let vol = n % 2;
        let Some(slot) = header_of(s, d, &before.block(1, vol, n)) else { continue };
        let bytes = |block: &Buf| header_of(s, d, block).map_or(Buf::copy_from(&[0; 4096]), |h| at(s, d, h));
        let (other, older) = (bytes(&before.block(1, 1 - vol, n)), bytes(&before.block(0, vol, n)));
        out.extend(spoilt(s, d, slot, damage, other, older));
    }
    out
}

fn summaries(s: &Script, before: &Before, damage: Damage, d: usize) -> Vec<(u64, Buf)> {
    let dev = &s.w.drives[d].dev;
    let is_footer = |slot: &u64| dev.sector(*slot).is_some_and(|b| &b[8..16] == FOOTER);
    let footers: Vec<u64> = dev.sectors().into_iter().filter(is_footer).collect();
    let mut out = Vec::new();
    for (i, slot) in footers.iter().enumerate() {
        let older = at(s, d, footers[if i == 0 { footers.len() - 1 } else { i - 1 }]);
        // The body lies before it; a footer's neighbour is the header of the next segment, another structure.
        let place = if damage == Damage::Neighbour || i % 2 == 1 { slot - 1 } else { *slot };
        out.extend(spoilt(s, d, place, damage, before.block(1, 1, 0), older));
    }
    out
}

fn checkpoint(s: &Script, before: &Before, damage: Damage, d: usize) -> Vec<(u64, Buf)> {
    let root = before.roots[1][d].0;
    let older = before.roots[0][d].1.clone();
    let starts_segment = SegHeader::decode(at(s, d, root).as_slice()).is_ok();
    if damage == Damage::Neighbour && !starts_segment {
        return spoilt(s, d, root - 1, damage, older.clone(), older);
    }
    spoilt(s, d, root, damage, before.block(1, 0, 0), older)
}

fn superblocks(s: &Script, before: &Before, damage: Damage, d: usize) -> Vec<(u64, Buf)> {
    let layout = drystone_store::inspect(&mut s.w.drives[d].dev.copy()).map(|sb| sb.layout.superblocks());
    let Ok(places) = layout else { return Vec::new() };
    // One pair that is rolled back is noticed by the other, newer one; a newer one that is alone may be torn.
    let count = if damage == Damage::RolledBack { 2 } else { 3 };
    let mut out = Vec::new();
    for slot in places.into_iter().rev().take(count) {
        if damage == Damage::Neighbour {
            out.extend([(slot, at(s, d, slot - 1)), (slot - 1, at(s, d, slot))]);
        } else {
            out.extend(spoilt(s, d, slot, damage, before.block(1, 0, 0), before.supers[d].clone()));
        }
    }
    out
}
