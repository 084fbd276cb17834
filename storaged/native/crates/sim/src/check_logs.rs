//! What the logs of the drives must hold, by the second opinion of [`crate::shadow`]: I12 to I15, I17, I20.

use std::collections::{BTreeMap, BTreeSet};

use drystone_store::api::{BlockKind, ObjectStore, Space};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{Epoch, Flags, Header, MsgType, ObjKey, PgId, Version, VolumeId};

use crate::event::Proc;
use crate::meta::POOL;
use crate::shadow::{Applied, Cell, Model};
use crate::storage::{self, Store};
use crate::world::World;

/// Blocks of a drive as its store tells them.
type Told = BTreeMap<(ObjKey, u16), (BlockKind, Version, u64)>;

impl World {
    /// Takes what the shadow of a drive's log noticed.
    pub fn check_log(&mut self, d: usize) {
        let shadow = &mut self.drives[d].dev.shadow;
        let applied = std::mem::take(&mut shadow.applied);
        if let Some((oracle, text)) = shadow.broken.pop() {
            self.fail(oracle, format!("drive{}: {text}", d + 1));
        }
        for change in applied {
            self.check_frozen(d, &change);
            self.check_falls(d, &change);
        }
    }

    /// I12: a frozen layer changes no more at an in-sync member; only places change.
    fn check_frozen(&mut self, d: usize, change: &Applied) {
        let frozen = self.checks.frozen.get(&change.key.layer);
        let Some(content) = frozen.and_then(|layer| layer.get(&change.pg.pg)) else { return };
        if change.lost || !self.truth().pg(change.pg.pg).is_some_and(|r| r.is_insync(self.drives[d].id)) {
            return;
        }
        let want = content.get(&(change.key.chunk, change.block));
        let is = change.after.shows().then(|| change.after.content());
        self.counts.hit("check.i12_writes");
        if want.copied() != is {
            let text = format!("drive{} changed a frozen layer: {change:?}, frozen as {want:?}", d + 1);
            self.fail("I12", text);
        }
    }

    /// I15 after every start: the index is what the durable prefix of each stream says, neither less nor more.
    pub fn check_reopened(&mut self, d: usize) {
        if cfg!(feature = "naive") || self.doubtful(d) {
            return;
        }
        let drive = &mut self.drives[d];
        let Some((store, _)) = drive.opening.as_mut() else { return };
        let pgs: Vec<PgId> = (0..self.meta.pg_count()).map(|pg| PgId { pool: POOL, pg }).collect();
        let mut chunks: BTreeSet<(VolumeId, u64)> =
            pgs.iter().flat_map(|pg| store.changed_chunks(*pg, Epoch(0), None, usize::MAX)).collect();
        chunks.extend(drive.dev.shadow.model.objects.iter().map(|(key, o)| (o.vol, key.chunk)));
        let mut told = Told::new();
        let mut last_mod: BTreeMap<ObjKey, Epoch> = BTreeMap::new();
        for (vol, chunk) in chunks {
            for object in storage::digest_now(&mut drive.dev, store, vol, chunk) {
                let key = ObjKey { layer: object.layer, chunk };
                last_mod.insert(key, object.last_mod_epoch);
                for run in object.runs {
                    for i in 0..run.count {
                        let csum = run.csums.get(usize::from(i)).copied().unwrap_or(0);
                        told.insert((key, run.first + i), (run.kind, run.version, csum));
                    }
                }
            }
        }
        let model = &drive.dev.shadow.model;
        let wrong = blocks_differ(model, &told).or_else(|| metas_differ(model, store)).or_else(|| {
            let behind = |(key, at): (&ObjKey, &Epoch)| model.objects.get(key).is_some_and(|o| o.last_mod > *at);
            last_mod.iter().find(|x| behind(*x)).map(|x| format!("object {x:?} forgot its last epoch"))
        });
        let (live, counted) = (model.live(), store.space().live);
        let leak = || (live != counted).then(|| format!("{counted} slots count as live, the log says {live}"));
        let wrong = wrong.or_else(leak);
        let blocks = told.len() as u64;
        self.counts.hit("check.i15_reopened");
        self.counts.add("check.i15_blocks", blocks);
        if let Some(text) = wrong {
            self.fail("I15", format!("drive{} after a start: {text}", d + 1));
        }
        self.check_log(d);
    }

    /// I15: what a drive acknowledges is in its log, and so is every group before it.
    pub fn check_acked(&mut self, d: usize, asked: &Header) {
        if cfg!(feature = "naive") || self.drives[d].dev.lies {
            return;
        }
        if asked.flags.has(Flags::UNREAD) {
            // The OK promises a copy, not a record.
            return;
        }
        let (version, stable) = (asked.version(), self.checks.stable_of(asked.vol));
        let key = ObjKey { layer: asked.layer, chunk: asked.block / u64::from(CHUNK_BLOCKS) };
        let first = (asked.block % u64::from(CHUNK_BLOCKS)) as u16;
        let model = &self.drives[d].dev.shadow.model;
        let holds = |block: u16| model.cell(key, block).is_some_and(|c| c.version >= version && !c.forgotten);
        let missing = (first..first + asked.count as u16).find(|b| !holds(*b));
        self.counts.hit("check.i15_acks");
        // What is stable needs no record here: a copy may have left out what a hole hid.
        if let (Some(block), true) = (missing, version > stable) {
            let text = format!("drive{} acknowledged {version} of block {block} of {key:?} without its record", d + 1);
            self.fail("I15", text);
        }
    }

    /// I20: a write with a credit, a trim, zeros and a roll never meet a full drive.
    pub fn check_full(&mut self, d: usize, asked: Option<Header>) {
        let Some(h) = asked else { return };
        if h.flags.has(Flags::ROLL) || h.kind != MsgType::Write || !h.flags.has(Flags::OVERWRITE) {
            let text = format!("drive{} answered FULL to {:?} {}", d + 1, h.kind, h.version());
            self.fail("I20", text);
        }
        self.counts.hit("check.i20_overwrite_full");
    }

    /// I17: whoever may be a source of a delta still names every object that changed since the oldest absence.
    pub fn check_remembered(&mut self, pg: u32) {
        let Some(record) = self.truth().pg(pg).cloned() else { return };
        let Some(e0) = record.oldest_out() else { return };
        for d in 0..self.drives.len() {
            let node = self.drives[d].node;
            let frozen = self.frozen.get(&Proc::Server(node)).is_some_and(|t| *t > self.now);
            // A suspect drive answers nobody: it is no source.
            let silent = frozen || self.drives[d].suspect;
            if !record.is_insync(self.drives[d].id) || silent || self.doubtful(d) {
                continue;
            }
            self.check_drive_remembers(d, PgId { pool: POOL, pg }, e0);
        }
    }

    fn check_drive_remembers(&mut self, d: usize, pg: PgId, e0: Epoch) {
        let drive = &self.drives[d];
        let Some(replica) = drive.replica.as_ref() else { return };
        let named: BTreeSet<_> = replica.store().changed_chunks(pg, e0, None, usize::MAX).into_iter().collect();
        let (mut objects, mut empty, mut lost) = (0, 0, None);
        for (key, o) in drive.dev.shadow.model.objects.iter().filter(|(_, o)| o.pg == pg && o.last_mod >= e0) {
            let bare = !o.cells.values().any(Cell::shows);
            if bare && !self.out_since(pg.pg, o.last_mod) {
                // Emptied while nobody was out: it was free to go.
                continue;
            }
            objects += 1;
            empty += u64::from(bare);
            if !named.contains(&(o.vol, key.chunk)) && self.now > drive.dev.shadow.changed_at {
                lost = Some(format!("drive{} forgot {key:?}, changed in epoch {}, out since {e0}", d + 1, o.last_mod));
            }
        }
        self.counts.add("check.i17_objects", objects);
        self.counts.add("check.i17_empty", empty);
        if let Some(text) = lost {
            self.fail("I17", text);
        }
    }

    /// Whether in every epoch since that one a member was out that needs what changed in it.
    fn out_since(&self, pg: u32, epoch: Epoch) -> bool {
        let now = self.truth().pg(pg).map_or(epoch, |r| r.epoch);
        (epoch.0..=now.0).all(|e| {
            let record = self.meta.history.get(&(pg, Epoch(e)));
            record.and_then(|r| r.oldest_out()).is_some_and(|oldest| oldest <= epoch)
        })
    }

    /// I20: what was promised has room beside the reserve.
    pub fn check_space(&mut self, d: usize, space: Space) {
        self.counts.hit("check.i20_space");
        if space.grantable == 0 && space.total > 0 {
            self.counts.hit("check.i20_full");
        }
        // Half of the reserve is garbage collection's alone, whatever else was promised.
        if space.live + space.reserve / 2 > space.total {
            self.fail("I20", format!("drive{} left garbage collection no room: {space:?}", d + 1));
        }
    }

    /// Adds the counters of a drive's shadow to the run's.
    pub fn collect_shadow(&mut self, d: usize) {
        let seen = std::mem::take(&mut self.drives[d].dev.shadow.seen);
        self.counts.add_fields("shadow", &format!("{seen:?}"));
    }
}

fn blocks_differ(model: &Model, told: &Told) -> Option<String> {
    for (key, object) in &model.objects {
        let stable = model.stable(object.vol);
        for (block, cell) in &object.cells {
            let is = told.get(&(*key, *block)).copied();
            // A hole that is durably stable may be gone (B8: no other may).
            let may_go = cell.kind == BlockKind::Hole && cell.version <= stable;
            let right = match is {
                Some(content) => !cell.forgotten && content == cell.content(),
                None => cell.forgotten || may_go,
            };
            if !right {
                return Some(format!("block {block} of {key:?} is {is:?}, the log says {cell:?}"));
            }
        }
    }
    let unknown = told.iter().find(|((key, block), _)| model.cell(*key, *block).is_none());
    unknown.map(|x| format!("{x:?} is not in the log"))
}

fn metas_differ(model: &Model, store: &Store) -> Option<String> {
    let value = |v: &Vec<u8>| (!v.is_empty()).then(|| v.clone());
    let wrong = model.metas.iter().find(|(key, (_, v))| store.meta(**key).map(<[u8]>::to_vec) != value(v));
    wrong.map(|(key, (_, v))| format!("value {key:?} is {:?}, the log says {v:?}", store.meta(*key)))
}
