//! Blocks that a source cannot read. Another in-sync copy gives them; when every in-sync member has failed to
//! read one, it is copied as BAD: the copy of everything else must not wait for ever for what is lost (engine
//! §4.4 A4: EIO until overwritten).

use std::collections::BTreeMap;

use drystone_store::api::{BlockKind, ObjectStore};
use drystone_types::{DriveId, LayerId, ObjKey, PgId, Version};

use super::compare::pack;
use super::wire::CopyCell;
use super::{ChunkId, Fetch, Job, Resync};
use crate::api::Report;
use crate::limits::{UNREADABLE_PAUSE, UNREADABLE_TRIES};
use crate::replica::Replica;

/// What is known of one block that a source could not read.
#[derive(Default)]
pub(crate) struct Unread {
    /// Highest version that an in-sync member says it has.
    version: Version,
    /// How often each member failed to read it.
    tries: BTreeMap<DriveId, u8>,
}

impl Unread {
    /// Whom to ask next: the member that failed least; `None` when all failed often enough.
    fn next(&self, insync: &[DriveId]) -> Option<(DriveId, u8)> {
        let tries = |d: &DriveId| self.tries.get(d).copied().unwrap_or(0);
        let least = insync.iter().map(|d| (*d, tries(d))).min_by_key(|(_, n)| *n)?;
        (least.1 < UNREADABLE_TRIES).then_some(least)
    }
}

/// Adds a block to the last run if it follows it.
fn push_block(runs: &mut Vec<(u16, u16)>, block: u16) {
    match runs.last_mut() {
        Some((first, count)) if *first + *count == block => *count += 1,
        _ => runs.push((block, 1)),
    }
}

impl Job {
    /// Takes what `drive` could not read out of its answer and notes it; what it could read is no longer missing.
    pub(super) fn sort_out_unread(
        &mut self,
        drive: DriveId,
        layer: LayerId,
        cells: &mut Vec<(u16, CopyCell, Option<usize>)>,
    ) {
        cells.retain(|(block, cell, _)| {
            let Some((BlockKind::Bad, version)) = *cell else {
                self.unread.remove(&(layer, *block));
                return true;
            };
            let unread = self.unread.entry((layer, *block)).or_default();
            unread.version = unread.version.max(version);
            let tries = unread.tries.entry(drive).or_default();
            *tries = tries.saturating_add(1);
            false
        });
    }

    /// Plans to ask other members; gives the blocks that all of them failed to read.
    fn ask_others(&mut self, insync: &[DriveId]) -> (Vec<(LayerId, u16, Version)>, bool) {
        let mut asks: BTreeMap<(DriveId, LayerId), Vec<(u16, u16)>> = BTreeMap::new();
        let (mut lost, mut again) = (Vec::new(), false);
        for ((layer, block), unread) in &self.unread {
            match unread.next(insync) {
                Some((drive, tries)) => {
                    push_block(asks.entry((drive, *layer)).or_default(), *block);
                    again |= tries > 0;
                }
                None => lost.push((*layer, *block, unread.version)),
            }
        }
        for ((drive, layer), runs) in asks {
            let requests = pack(&split(&runs)).into_iter();
            self.copies.extend(requests.map(|runs| Fetch { from: Some(drive), layer, runs }));
        }
        for (layer, block, _) in &lost {
            self.unread.remove(&(*layer, *block));
        }
        (lost, again)
    }
}

/// Runs of at most one frame each.
fn split(runs: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let most = u16::try_from(drystone_types::consts::FRAME_BLOCKS_MAX).unwrap_or(u16::MAX);
    let parts = |&(first, count): &(u16, u16)| {
        (0..count.div_ceil(most)).map(move |i| (first + i * most, (count - i * most).min(most)))
    };
    runs.iter().flat_map(parts).collect()
}

impl<S: ObjectStore> Replica<S> {
    /// Everything else of the chunk is here: what of it could not be read?
    pub(super) fn plan_unread(&mut self, id: PgId, rs: &mut Resync, job: u64) {
        let me = self.cfg.drive;
        let insync: Vec<DriveId> = self
            .pgs
            .get(&id)
            .map(|pg| pg.rec.insync.iter().copied().filter(|d| *d != me).collect())
            .unwrap_or_default();
        let Some(entry) = rs.jobs.get_mut(&job).filter(|j| !j.unread.is_empty() && !insync.is_empty()) else { return };
        let (lost, again) = entry.ask_others(&insync);
        if again {
            // A second look makes sure that it was not the moment.
            entry.not_before = self.now + UNREADABLE_PAUSE;
        }
        let chunk = entry.chunk;
        for (layer, block, version) in lost {
            self.put_lost(id, rs, chunk, (layer, block), version);
        }
    }

    fn put_lost(
        &mut self,
        id: PgId,
        rs: &mut Resync,
        chunk: ChunkId,
        (layer, block): (LayerId, u16),
        version: Version,
    ) {
        let key = ObjKey { layer, chunk: chunk.1 };
        if self.store.since_join(key, block) == Some(rs.join) {
            self.stats.resync_kept += 1;
            return;
        }
        self.resync_put(id, rs, chunk.0, key, (block, 1), Some((BlockKind::Bad, version)), None);
        self.stats.resync_bad_blocks += 1;
        self.report(Report::Unrepaired { vol: chunk.0, key, block });
    }
}
