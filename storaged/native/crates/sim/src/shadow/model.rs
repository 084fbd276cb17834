//! What the groups of a log say when they are applied one after the other: the index, told by maps.

use std::collections::{BTreeMap, HashMap};

use drystone_store::api::{BlockKind, MetaKey};
use drystone_store::entry::{BlockEntry, Entry, MetaValue};
use drystone_store::group::GroupHeader;
use drystone_store::loc::{Loc, SLOT};
use drystone_types::{Buf, Epoch, Gen, LayerId, ObjKey, PgId, Version, VolumeId};

/// A block as the newest record left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Where it lies.
    pub loc: Loc,
    /// Order of the record that made it; a move keeps it.
    pub lsn: u64,
    /// Kind; of a forgotten block it means nothing.
    pub kind: BlockKind,
    /// Forgotten: absent, but a later arrival of an older record must not bring it back.
    pub forgotten: bool,
    /// Version.
    pub version: Version,
    /// Epoch of the PG in which it was written here; a move keeps it.
    pub epoch: Epoch,
    /// Checksum of data.
    pub csum: u64,
}

impl Cell {
    /// Whether a consumer could read something of it.
    pub fn shows(&self) -> bool {
        !self.forgotten && self.kind != BlockKind::Hole
    }
    /// Kind, version and checksum: what a move must not change.
    pub fn content(&self) -> (BlockKind, Version, u64) {
        (self.kind, self.version, self.csum)
    }
}

/// A chunk of a layer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Object {
    /// Volume.
    pub vol: VolumeId,
    /// PG.
    pub pg: PgId,
    /// Epoch of the last change.
    pub last_mod: Epoch,
    /// Blocks.
    pub cells: BTreeMap<u16, Cell>,
}

/// A block entry that changed the model, or a move that lost its race.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// Object.
    pub key: ObjKey,
    /// PG.
    pub pg: PgId,
    /// Block.
    pub block: u16,
    /// What it was.
    pub before: Option<Cell>,
    /// What it is.
    pub after: Cell,
    /// Made by garbage collection.
    pub moved: bool,
    /// The move came too late: the block was overwritten meanwhile, nothing changed.
    pub lost: bool,
}

/// A group with the values of its entries, as it was sent to the device.
#[derive(Clone, Debug)]
pub struct Group {
    /// Header.
    pub header: GroupHeader,
    /// Bytes of the group: header slot and data slots.
    pub slots: Vec<Buf>,
}

/// The index of a log.
#[derive(Debug, Default)]
pub struct Model {
    /// Objects.
    pub objects: BTreeMap<ObjKey, Object>,
    /// Small values with the order of their record.
    pub metas: BTreeMap<MetaKey, (u64, Vec<u8>)>,
    /// Data slots that something points to.
    at: HashMap<u64, (ObjKey, u16)>,
}

impl Model {
    /// Applies the entries of a group.
    pub fn apply(&mut self, group: &Group, out: &mut Vec<Applied>) {
        for (entry, slot, csums) in group.header.walk() {
            self.apply_entry(group, entry, slot, csums, out);
        }
    }
    /// Applies one entry.
    pub fn apply_entry(&mut self, group: &Group, entry: &Entry, slot: u64, csums: &[u64], out: &mut Vec<Applied>) {
        match entry {
            Entry::Blocks(b) => self.apply_blocks(b, slot, group.header.slot, csums, out),
            Entry::Meta { lsn, key, value } => {
                let at = self.metas.entry(*key).or_default();
                if at.0 <= *lsn {
                    *at = (*lsn, value_of(group, value, slot));
                }
            }
            Entry::Touch { key, vol, pg, epoch, .. } if vol.0 != 0 => {
                self.object(*key, *vol, *pg, *epoch);
            }
            Entry::Touch { .. } => {}
            Entry::FreeLayer { layer, .. } => self.free(*layer),
        }
    }
    fn object(&mut self, key: ObjKey, vol: VolumeId, pg: PgId, epoch: Epoch) -> &mut Object {
        let o = self.objects.entry(key).or_insert_with(|| Object { vol, pg, ..Object::default() });
        o.last_mod = o.last_mod.max(epoch);
        o
    }
    fn apply_blocks(&mut self, b: &BlockEntry, slot: u64, header: u64, csums: &[u64], out: &mut Vec<Applied>) {
        if b.source.is_none() && (!b.forget || self.objects.contains_key(&b.key)) {
            self.object(b.key, b.vol, b.pg, b.pg_epoch);
        }
        let loc = if b.has_data() { Loc::data(slot, slot - header) } else { Loc::mark(header, b.kind) };
        for i in 0..b.count {
            let (block, csum) = (b.first + i, csums.get(usize::from(i)).copied().unwrap_or(0));
            let Some(object) = self.objects.get_mut(&b.key) else { return };
            let before = object.cells.get(&block).copied();
            let after = Cell {
                loc: loc.advance(i),
                lsn: b.orig_lsn,
                kind: b.kind,
                forgotten: b.forget,
                version: b.version,
                epoch: before.filter(|_| b.source.is_some()).map_or(b.pg_epoch, |c| c.epoch),
                csum,
            };
            let applies = match b.source {
                Some(source) => before.is_some_and(|c| !c.forgotten && c.loc == source.advance(i)),
                None => before.is_none_or(|c| c.lsn <= b.lsn),
            };
            if applies {
                object.cells.insert(block, after);
                self.relocate((b.key, block), before, after);
            }
            if applies || b.source.is_some() {
                let (moved, lost) = (b.source.is_some(), !applies);
                out.push(Applied { key: b.key, pg: b.pg, block, before, after, moved, lost });
            }
        }
    }
    fn relocate(&mut self, who: (ObjKey, u16), before: Option<Cell>, after: Cell) {
        if let Some(old) = before.filter(|c| c.loc.is_data() && !c.forgotten) {
            self.at.remove(&old.loc.slot());
        }
        if after.loc.is_data() && !after.forgotten {
            self.at.insert(after.loc.slot(), who);
        }
    }
    fn free(&mut self, layer: LayerId) {
        self.objects.retain(|key, _| key.layer != layer);
        self.at.retain(|_, (key, _)| key.layer != layer);
    }
    /// Block whose data lies in a slot.
    pub fn at(&self, slot: u64) -> Option<(ObjKey, u16)> {
        self.at.get(&slot).copied()
    }
    /// Data slots in use.
    pub fn live(&self) -> u64 {
        self.at.len() as u64
    }
    /// A block.
    pub fn cell(&self, key: ObjKey, block: u16) -> Option<&Cell> {
        self.objects.get(&key)?.cells.get(&block)
    }
    /// The stable value of a volume that is durable here.
    pub fn stable(&self, vol: VolumeId) -> Version {
        let value = self.metas.get(&MetaKey::Stable(vol)).map(|(_, v)| v.as_slice()).unwrap_or(&[]);
        let gen = value.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let seq = value.get(4..12).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        Version { gen: Gen(gen), seq }
    }
}

fn value_of(group: &Group, value: &MetaValue, slot: u64) -> Vec<u8> {
    match value {
        MetaValue::Inline(v) => v.clone(),
        MetaValue::Slots { len, .. } => {
            let first = (slot - group.header.slot) as usize;
            let count = (*len as usize).div_ceil(SLOT);
            let mut bytes = Vec::with_capacity(count * SLOT);
            group.slots.iter().skip(first).take(count).for_each(|b| bytes.extend_from_slice(b.as_slice()));
            bytes.truncate(*len as usize);
            bytes
        }
    }
}
