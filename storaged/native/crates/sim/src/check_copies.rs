//! What a copy of a PG may hold: I8 at in-sync members, I9 and I11 at joiners, and that the space of a log adds up.

use drystone_store::api::BlockKind;
#[cfg(not(feature = "naive"))]
use drystone_store::api::ObjectStore;
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{CodecError, Epoch, Frame, LayerId, ObjKey, PgId, Reader, Version};

use crate::shadow::{Applied, Cell, Model};
use crate::world::World;

/// A block of a SEAL answer: PG, the epoch it was given in, block, version.
type Listed = (PgId, Epoch, ObjKey, u16, Version);

impl World {
    /// I8: a version at an in-sync member never falls.
    pub fn check_falls(&mut self, d: usize, change: &Applied) {
        let insync = self.meta.pg(change.pg.pg).is_some_and(|r| r.is_insync(self.drives[d].id));
        let at = (change.key, change.block, change.after.version);
        if d < 64 {
            *self.checks.applied_by.entry(at).or_default() |= 1 << d;
        }
        let Some(before) = change.before.filter(|c| !c.forgotten && insync) else { return };
        self.counts.hit("check.i8");
        if !change.moved && !change.after.forgotten && change.after.version < before.version {
            self.fail("I8", format!("a version falls at in-sync drive{}: {change:?}", d + 1));
        }
    }

    /// I9: a joiner names no block in its SEAL answer that it had before its join and has from nobody else.
    pub fn check_sealed_by_joiner(&mut self, d: usize, frame: &Frame) {
        if cfg!(feature = "naive") || self.doubtful(d) || d >= 64 {
            return;
        }
        let id = self.drives[d].id;
        for (pg, epoch, key, block, version) in listed(&frame.meta) {
            let join = self.meta.history.get(&(pg.pg, epoch)).and_then(|r| r.joiner(id)).map(|j| j.join_epoch);
            let cell = self.drives[d].dev.shadow.model.cell(key, block);
            let (Some(join), Some(cell)) = (join, cell) else { continue };
            self.counts.hit("check.i9");
            let elsewhere = self.checks.applied_by.get(&(key, block, version)).is_some_and(|by| by & !(1 << d) != 0);
            if cell.epoch < join && !elsewhere {
                let text =
                    format!("drive{} names block {block} of {key:?} at {version}, void since epoch {join}", d + 1);
                self.fail("I9", text);
            }
        }
    }

    /// I11, before a joiner may be promoted: everything stable of the PG is durable there, and nothing that should not be.
    pub fn check_copied(&mut self, d: usize, pg: u32) {
        if cfg!(feature = "naive") || self.doubtful(d) {
            return;
        }
        let Some(record) = self.meta.pg(pg).filter(|r| r.joiner(self.drives[d].id).is_some()) else { return };
        let source = (0..self.drives.len()).find(|s| record.is_insync(self.drives[*s].id) && !self.doubtful(*s));
        let Some(source) = source else { return };
        self.counts.hit("check.i11_copies");
        let (theirs, ours) = (&self.drives[source].dev.shadow.model, &self.drives[d].dev.shadow.model);
        let lacks = self.behind(theirs, ours, pg).map(|x| format!("drive{} lacks {x}", d + 1));
        let extra = || self.behind(ours, theirs, pg).map(|x| format!("drive{} alone has {x}", d + 1));
        if let Some(text) = lacks.or_else(extra) {
            self.fail("I11", format!("the copy of pg{pg} counts as complete, but {text}; source drive{}", source + 1));
        }
    }

    /// A stable block of `of` that is not at least as new in `other`.
    fn behind(&self, of: &Model, other: &Model, pg: u32) -> Option<String> {
        // A layer whose deletion waits for some drive is there on one and gone on another.
        let deleted = |key: &ObjKey| self.orders.iter().any(|o| o.layer == key.layer);
        let objects = of.objects.iter().filter(|(key, o)| o.pg.pg == pg && !deleted(key));
        let stable = |o: &crate::shadow::Object, c: &Cell| c.shows() && c.version <= self.checks.stable_of(o.vol);
        let mut blocks = objects.flat_map(|(key, o)| {
            o.cells.iter().filter(move |(_, c)| stable(o, c)).map(move |(block, c)| (*key, *block, *c))
        });
        let found = blocks.find(|(key, block, c)| other.cell(*key, *block).is_none_or(|x| x.version < c.version));
        found.map(|(key, block, c)| format!("block {block} of {key:?} at {}", c.version))
    }

    /// Every segment is in one state, the free ones hold nothing, and what counts as live is what the log says.
    pub fn final_space(&mut self) {
        if cfg!(feature = "naive") {
            return;
        }
        for d in 0..self.drives.len() {
            if self.doubtful(d) {
                continue;
            }
            let Some(wrong) = self.space_is_wrong(d) else { continue };
            self.fail("SPACE", format!("drive{}: {wrong}", d + 1));
        }
    }

    #[cfg(not(feature = "naive"))]
    fn space_is_wrong(&mut self, d: usize) -> Option<String> {
        let drive = &self.drives[d];
        let store = drive.replica.as_ref()?.store();
        self.counts.hit("check.space");
        if let Err(wrong) = store.census() {
            return Some(wrong);
        }
        let (live, counted) = (drive.dev.shadow.model.live(), store.space().live);
        // What just became durable is in the log, and the core hears of it a step later.
        let settled = self.now > drive.dev.shadow.changed_at;
        (settled && live != counted).then(|| format!("{counted} slots count as live, the log says {live}"))
    }

    #[cfg(feature = "naive")]
    fn space_is_wrong(&mut self, _d: usize) -> Option<String> {
        None
    }
}

/// Blocks of a SEAL answer (wire protocol, "Seal reply meta").
fn listed(meta: &[u8]) -> Vec<Listed> {
    let read = |r: &mut Reader<'_>| -> Result<Vec<Listed>, CodecError> {
        r.bytes(5)?;
        let mut blocks = Vec::new();
        for _ in 0..r.u32()? {
            let (pg, epoch) = (PgId::from_wire(r.u32()?), Epoch(r.u32()?));
            for _ in 0..r.u32()? {
                let (layer, number) = (LayerId(r.u64()?), r.u64()?);
                let version = Version::new(r.u32()?, r.u64()?);
                let kind = r.u8()?;
                let key = ObjKey { layer, chunk: number / u64::from(CHUNK_BLOCKS) };
                if kind != BlockKind::Hole as u8 {
                    blocks.push((pg, epoch, key, (number % u64::from(CHUNK_BLOCKS)) as u16, version));
                }
            }
        }
        Ok(blocks)
    };
    read(&mut Reader::new(meta)).unwrap_or_default()
}
